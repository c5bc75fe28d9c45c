"""Write scikit-learn's breast cancer data as two tables, and build the package clinic/cells from them.

    python examples/talk_notebook/make_cells.py

The measures and the diagnoses come from two places, as they do in a clinic; `cell` is the number by which they belong
together. Source: Wisconsin Diagnostic Breast Cancer, shipped with scikit-learn.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from sklearn.datasets import load_breast_cancer


def main() -> int:
    parser = argparse.ArgumentParser(description="Write two tables of cells, and build a package of them.")
    parser.add_argument("--dest", type=Path, default=Path("data/cells"), metavar="DIR", help="folder (%(default)s)")
    parser.add_argument("--name", default="clinic/cells", help="of the package (%(default)s)")
    arguments = parser.parse_args()

    found = load_breast_cancer(as_frame=True)
    measures = found.data.rename(columns=lambda name: name.replace(" ", "_")).rename_axis("cell")
    diagnoses = found.target.map(dict(enumerate(found.target_names))).rename("diagnosis").rename_axis("cell")
    arguments.dest.mkdir(parents=True, exist_ok=True)
    measures.to_csv(arguments.dest / "measures.csv", lineterminator="\n")
    diagnoses.to_csv(arguments.dest / "diagnoses.csv", lineterminator="\n")
    message = f"{len(measures)} samples, {measures.shape[1]} measures"
    command = ["package", "build", str(arguments.dest), arguments.name, "-m", message]
    return subprocess.run([sys.executable, "-m", "reprokit", *command]).returncode


if __name__ == "__main__":
    sys.exit(main())

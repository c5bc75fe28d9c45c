"""Train boosted trees on handwritten digits with LightGBM; writes metrics.json.

Run it with `reprokit run recipes/digits-lightgbm.yaml`, or as plain Python: `python recipes/digits_lightgbm.py`.
"""

import json
from pathlib import Path

import lightgbm
from sklearn.datasets import load_digits

import reprokit
from reprokit.callbacks.lightgbm import PackageCheckpoint

TRAIN = 1400  # of 1797 images; the rest is held out
SAME_EACH_TIME = {"deterministic": True, "force_row_wise": True}


def main() -> None:
    params = reprokit.params(rounds=30, learning_rate=0.1, num_leaves=15)
    x, y = load_digits(return_X_y=True)  # [1797, 64], 0…16
    model = lightgbm.LGBMClassifier(
        n_estimators=params["rounds"],
        learning_rate=params["learning_rate"],
        num_leaves=params["num_leaves"],
        verbosity=-1,
        **SAME_EACH_TIME,
    )
    test = (x[TRAIN:], y[TRAIN:])
    model.fit(
        x[:TRAIN], y[:TRAIN], eval_set=[test], eval_names=["test"],
        callbacks=[PackageCheckpoint(every=10), lightgbm.log_evaluation(10)],
    )  # fmt: skip
    Path("metrics.json").write_text(json.dumps({"accuracy": model.score(*test)}, indent=2) + "\n")


if __name__ == "__main__":
    main()

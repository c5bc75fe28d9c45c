"""Train a scorecard and a booster on loan applications; judge both by later months.

Run it with `reprokit run examples/credit_risk/credit.yaml`, or as plain Python from the root of the repository. It
writes metrics.json, scorecard.csv, scores.csv, curves.csv and curves.png into `credit/`.
"""

import json
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import xgboost
from credit import Part, curves, drift, kinds, measure, numbers, split
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import reprokit
from reprokit.callbacks.xgboost import PackageCheckpoint

matplotlib.use("Agg")
from matplotlib import pyplot

# The more of these, the higher the score, whatever the rest: a refusal can be explained by them.
rising = ("debt_to_income", "utilisation", "delinquencies", "inquiries")
labels = {
    "ROC": {"xlabel": "good refused", "ylabel": "bad refused"},
    "calibration": {"xlabel": "mean score of a tenth", "ylabel": "its defaults"},
}


def scorecard() -> Pipeline:
    """The baseline: a logistic regression on scaled numbers, with a mark for a missing one, and on kinds."""
    scaled = Pipeline([("fill", SimpleImputer(strategy="median", add_indicator=True)), ("scale", StandardScaler())])
    kind = OneHotEncoder(categories=list(kinds.values()), drop="first", sparse_output=False)
    columns = ColumnTransformer([("number", scaled, numbers), ("kind", kind, list(kinds))])
    return Pipeline([("columns", columns), ("regression", LogisticRegression(C=1.0, max_iter=1000))])


def booster(train: Part, valid: Part, *, rounds: int, learning_rate: float, max_depth: int) -> xgboost.Booster:
    """Boosted trees; the validation part is measured after each round and a checkpoint saved every 20."""
    told = {
        "objective": "binary:logistic",
        "eval_metric": ["logloss", "auc"],
        "eta": learning_rate,
        "max_depth": max_depth,
        "min_child_weight": 20,
        "monotone_constraints": dict.fromkeys(rising, 1),
    }
    return xgboost.train(
        told, matrix(train), rounds, evals=[(matrix(valid), "valid")], verbose_eval=50,
        callbacks=[PackageCheckpoint(every=20)],
    )  # fmt: skip


def matrix(part: Part) -> xgboost.DMatrix:
    return xgboost.DMatrix(part.x, part.default, enable_categorical=True)


def draw(points: pd.DataFrame, file: Path) -> None:
    """Draw each panel of `points` as in `curves`."""
    figure, axes = pyplot.subplots(1, 2, figsize=(9, 4), layout="constrained")
    for axis, (panel, lines) in zip(axes, points.groupby("panel", sort=False), strict=True):
        for name, line in lines.groupby("line", sort=False):
            axis.plot(line["x"], line["y"], marker="." if panel == "calibration" else "", label=name)
        most = 1.0 if panel == "ROC" else float(lines[["x", "y"]].to_numpy().max())
        axis.plot([0, most], [0, most], color="grey", linewidth=0.8, linestyle=":")
        axis.set(title=panel, **labels[str(panel)])
        axis.legend()
    figure.savefig(file, dpi=100)
    pyplot.close(figure)


def main() -> None:
    params = reprokit.params(
        rounds=200, learning_rate=0.05, max_depth=3, validation_from="2023-01", test_from="2023-07"
    )
    out = Path("credit")
    out.mkdir(exist_ok=True)
    file = Path("data/loans/applications.csv")
    train, valid, test = split(file, validation_from=params["validation_from"], test_from=params["test_from"])

    baseline = scorecard().fit(train.x, train.default)
    trees = booster(
        train, valid, rounds=params["rounds"], learning_rate=params["learning_rate"], max_depth=params["max_depth"]
    )

    before = {"baseline": baseline.predict_proba(train.x)[:, 1], "booster": trees.predict(matrix(train))}
    scores = {"baseline": baseline.predict_proba(test.x)[:, 1], "booster": trees.predict(matrix(test))}
    scores = {name: np.asarray(score, dtype=np.float64) for name, score in scores.items()}
    metrics = {
        name: {**measure(test.default, score), "psi": drift(before[name], score)} for name, score in scores.items()
    }
    for name, its in metrics.items():
        print(
            f"{name}, from {params['test_from']} on:", *(f"{key} {value:.4f}" for key, value in its.items()), flush=True
        )
    its = metrics["booster"]
    reprokit.log(test_auc=its["auc"], test_ks=its["ks"], test_brier=its["brier"])

    (out / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    weights = pd.Series(baseline["regression"].coef_[0], index=baseline["columns"].get_feature_names_out())
    weights.to_csv(out / "scorecard.csv", index_label="column", header=["weight"], lineterminator="\n")
    table = test.table[["application", "month", "default"]].assign(**scores)
    table.to_csv(out / "scores.csv", index=False, lineterminator="\n")
    points = curves(test.default, scores)
    points.to_csv(out / "curves.csv", index=False, lineterminator="\n")
    draw(points, out / "curves.png")


if __name__ == "__main__":
    main()

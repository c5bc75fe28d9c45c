"""Train boosted trees on handwritten digits with XGBoost; writes metrics.json.

Run it with `reprokit run recipes/digits-xgboost.yaml`, or as plain Python: `python recipes/digits_xgboost.py`.
"""

import json
from pathlib import Path

import xgboost
from sklearn.datasets import load_digits

import reprokit
from reprokit.callbacks.xgboost import PackageCheckpoint

TRAIN = 1400  # of 1797 images; the rest is held out


def main() -> None:
    params = reprokit.params(rounds=30, learning_rate=0.3, max_depth=4)
    x, y = load_digits(return_X_y=True)  # [1797, 64], 0…16
    model = xgboost.XGBClassifier(
        n_estimators=params["rounds"],
        learning_rate=params["learning_rate"],
        max_depth=params["max_depth"],
        callbacks=[PackageCheckpoint(every=10)],
    )
    model.fit(x[:TRAIN], y[:TRAIN], eval_set=[(x[TRAIN:], y[TRAIN:])], verbose=10)
    Path("metrics.json").write_text(json.dumps({"accuracy": model.score(x[TRAIN:], y[TRAIN:])}, indent=2) + "\n")


if __name__ == "__main__":
    main()

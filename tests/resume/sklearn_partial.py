"""Estimators that are fitted in epochs, each with a random state of its own kind; `kind` chooses."""

import numpy as np
from killing import maybe_die
from sklearn.cluster import MiniBatchKMeans
from sklearn.datasets import load_digits
from sklearn.ensemble import GradientBoostingClassifier, HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import SGDClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import reprokit
from reprokit.callbacks.sklearn import PackageCheckpoint

params = reprokit.params(epochs=5, kind="sgd", marker="")
x, y = load_digits(return_X_y=True)
x, y = x[:400] / 16, y[:400]
order = np.random.default_rng(3)
MODELS = {
    "sgd": lambda: SGDClassifier(learning_rate="adaptive", eta0=0.1, average=True),
    "sgd-generator": lambda: SGDClassifier(random_state=np.random.RandomState(3)),
    "mlp": lambda: MLPClassifier((16,), random_state=1),
    "mlp-global": lambda: MLPClassifier((16,)),  # draws from NumPy's global generator, as `train` does
    "kmeans": lambda: MiniBatchKMeans(10, random_state=2),
    "naive-bayes": lambda: GaussianNB(),
    "pipeline": lambda: make_pipeline(StandardScaler(), SGDClassifier()),
    "forest": lambda: RandomForestClassifier(warm_start=True, random_state=1),
    "boosting": lambda: GradientBoostingClassifier(warm_start=True, random_state=1, subsample=0.7),
    "histogram": lambda: HistGradientBoostingClassifier(warm_start=True, random_state=1),
}
model = MODELS[params["kind"]]()
inner = model[-1] if params["kind"] == "pipeline" else model  # held from before the restore, as scripts do


def train(epoch: int) -> None:
    chosen = order.permutation(len(x))[: int(np.random.randint(290, 300))]
    if params["kind"] in ("forest", "boosting"):
        model.set_params(n_estimators=epoch + 1).fit(x, y)
    elif params["kind"] == "histogram":
        model.set_params(max_iter=epoch + 1).fit(x, y)
    elif params["kind"] == "pipeline":
        model[0].partial_fit(x[chosen])
        inner.partial_fit(model[:-1].transform(x[chosen]), y[chosen], classes=range(10))
    elif params["kind"] == "kmeans":
        model.partial_fit(x[chosen])
    else:
        model.partial_fit(x[chosen], y[chosen], classes=range(10))


ckpt = PackageCheckpoint(estimator=model, generators={"order": order})
for epoch in ckpt.epochs(params["epochs"]):
    train(epoch)
    maybe_die(params["marker"])
    ckpt.save(score=float(model.score(x, y)))

"""Text in portions: hashed words, a classifier that learns with `partial_fit`, portions in a drawn order."""

import numpy as np
from ticking import tick

from reprokit.callbacks.sklearn import PackageCheckpoint
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.linear_model import SGDClassifier

order = np.random.default_rng(3)
texts = [f"w{i % 7} w{i % 5} w{i % 3}" for i in range(120)]
labels = np.array([i % 3 for i in range(120)])
words, model = HashingVectorizer(n_features=64), SGDClassifier(loss="log_loss", average=5)
ckpt = PackageCheckpoint(estimator=model, generators={"order": order})
for _ in ckpt.epochs(6):
    for chosen in np.array_split(order.permutation(120), 4):
        model.partial_fit(words.transform([texts[i] for i in chosen]), labels[chosen], classes=[0, 1, 2])
        tick()
    ckpt.save(score=model.score(words.transform(texts), labels))

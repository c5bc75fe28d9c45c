"""Clusters and topics learned from a stream, both at once."""

import numpy as np
from ticking import tick

from reprokit.callbacks.sklearn import PackageCheckpoint
from sklearn.cluster import MiniBatchKMeans
from sklearn.decomposition import IncrementalPCA, MiniBatchNMF

drawn = np.random.default_rng(2)
x = np.abs(drawn.normal(size=(200, 9)))
parts = {
    "means": MiniBatchKMeans(4, random_state=3),
    "pca": IncrementalPCA(3),
    "topics": MiniBatchNMF(2, random_state=1),
}
ckpt = PackageCheckpoint(estimator=parts, generators={"drawn": drawn})
for _ in ckpt.epochs(5):
    rows = x[drawn.permutation(200)[:60]]
    for part in parts.values():
        part.partial_fit(rows)
        tick()
    ckpt.save(inertia=parts["means"].inertia_)

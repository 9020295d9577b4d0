"""How far samples are from clean images, in the features of a classifier of the same clean images.

For evaluation only: nothing here is seen by training.
"""

import numpy as np
from sklearn.neural_network import MLPClassifier

from experiments.clean import clean_images, split_of
from tweedie_diffusion.data.noisy import Dataset


class Classifier:
    """A perceptron trained on the clean training images, and the features of those it is compared with.

    Attributes:
        reference: features of the clean training images.
    """

    def __init__(self, dataset: Dataset, split_seed: int, *, num_images: int = 10_000):
        train = split_of(dataset, split_seed)[0][:num_images]
        x_0, read_label = clean_images(dataset, train), dataset.images.read_label
        assert read_label is not None  # of every image study
        labels = [read_label(int(i)) for i in train]
        self._network = MLPClassifier((128, 64), max_iter=200, early_stopping=True, random_state=0)
        self._network.fit(x_0.reshape(len(x_0), -1), labels)
        self.reference = self.features(x_0)

    def features(self, x: np.ndarray) -> np.ndarray:
        """[N, ...] images -> [N, 64], the last hidden layer."""
        h = x.reshape(len(x), -1)
        for weights, bias in list(zip(self._network.coefs_, self._network.intercepts_, strict=True))[:-1]:
            h = np.maximum(h @ weights + bias, 0)
        return h


def frechet_distance(one: np.ndarray, other: np.ndarray) -> float:
    """‖m_1 − m_2‖² + tr(C_1 + C_2 − 2(C_1 C_2)^½) of two sets of features [N, F] (Heusel et al. 2017)."""
    covariances = np.cov(one.T), np.cov(other.T)
    values, vectors = np.linalg.eigh(covariances[0])
    root = vectors * np.sqrt(np.maximum(values, 0))  # C_1 = root·rootᵀ; features that never fire leave it singular
    overlap = np.sqrt(np.maximum(np.linalg.eigvalsh(root.T @ covariances[1] @ root), 0)).sum()
    means = np.sum(np.square(one.mean(axis=0) - other.mean(axis=0)))
    return float(means + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * overlap)

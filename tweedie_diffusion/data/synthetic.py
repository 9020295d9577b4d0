"""Mixtures of Gaussians whose exact denoiser is known."""

from functools import partial

import numpy as np

from tweedie_diffusion.diffusion.oracles import mixture_denoiser
from tweedie_diffusion.diffusion.types import DenoiseFn

Points = tuple[np.ndarray, np.ndarray, DenoiseFn]  # float32 [N, D], the component of each, the exact denoiser


def ring(count: int, seed: int) -> Points:
    """Eight components of standard deviation .1 on the unit circle."""
    angles = 2 * np.pi * np.arange(8) / 8
    means = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    rng = np.random.Generator(np.random.Philox(seed))
    labels = rng.integers(8, size=count)
    points = means[labels] + 0.1 * rng.standard_normal((count, 2))
    return points.astype(np.float32), labels, mixture_denoiser(np.ones(8), means, np.full(8, 0.1**2))


def low_rank(features: int, rank: int, count: int, seed: int) -> Points:
    """Ten components, means ~ N(0, I), covariances UUᵀ + .05² I with U ~ N(0, 1) [features, rank], scaled together to
    a mean variance of 1 a feature. The law is always the same; `seed` draws the points.
    """
    law = np.random.Generator(np.random.Philox(features))
    means, factors = law.standard_normal((10, features)), law.standard_normal((10, features, rank))
    within = np.square(factors).sum(axis=(1, 2)).mean() / features + 0.05**2
    scale = (within + means.var(axis=0).mean()) ** -0.5
    means, factors, rest = scale * means, scale * factors, scale * 0.05
    rng = np.random.Generator(np.random.Philox(seed))
    labels = rng.integers(10, size=count)
    points = means[labels] + rest * rng.standard_normal((count, features))
    points += np.einsum("nfr,nr->nf", factors[labels], rng.standard_normal((count, rank)))
    covariances = factors @ factors.transpose(0, 2, 1) + rest**2 * np.eye(features)
    return points.astype(np.float32), labels, mixture_denoiser(np.ones(10), means, covariances)


MIXTURES = {"mixture_2d": ring, "mixture_16d": partial(low_rank, 16, 4), "mixture_64d": partial(low_rank, 64, 8)}

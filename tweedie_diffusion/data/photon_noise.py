"""Poisson–Gaussian noise, of photon counts: the transform that makes it white and of one level, and the way back.

z = gain·Poisson(λ) + offset + N(0, read²). The generalised Anscombe transform
f(z) = 2/gain·√(gain·z' + ⅜gain² + read²), z' = z − offset, has a variance of nearly 1 (Starck, Murtagh and Bijaoui
1998). What a denoiser returns is E[f(z) | λ], and f⁻¹ of that is too small: the way back inverts λ -> E[f(z) | λ]
itself (Mäkitalo and Foi, IEEE TIP 20 and 22).
"""

import dataclasses

import numpy as np
from scipy.special import gammaln, xlogy

GRID = 400  # counts λ at which the mean of the transform is tabulated
MANY = 200.0  # photons, from which on its expansion is exact to float32
NODES = 40  # of the read noise, Gauss–Hermite


@dataclasses.dataclass(frozen=True)
class PhotonNoise:
    """z = gain·Poisson(λ) + offset + N(0, read²).

    Attributes:
        gain: stored units a photon, > 0.
        offset: stored value of no light.
        read: standard deviation of the read noise, in stored units.
    """

    gain: float
    offset: float = 0.0
    read: float = 0.0

    def variance(self, signal) -> np.ndarray:
        """Of the noise, gain·(signal − offset) + read², where the mean stored value is `signal`."""
        return np.maximum(self.gain * (np.asarray(signal) - self.offset), 0.0) + self.read**2

    def stabilise(self, z) -> np.ndarray:
        """f(z): noise of standard deviation 1, to within some per cent from 3 photons on."""
        z = np.asarray(z, np.float64) - self.offset
        inside = self.gain * z + 0.375 * self.gain**2 + self.read**2
        return 2 / self.gain * np.sqrt(np.maximum(inside, 0.0))

    def unstabilise(self, d) -> np.ndarray:
        """f⁻¹(d): the stored value itself, of noisy images; of denoised ones `restore` it."""
        d = np.maximum(np.asarray(d, np.float64), 0.0)
        return self.offset + self.gain * (d**2 / 4 - 0.375) - self.read**2 / self.gain

    def restore(self, d) -> np.ndarray:
        """The mean stored value whose stabilised mean E[f(z) | λ] is d; offset where d is below that of no light."""
        photons, means = self._table()
        d = np.asarray(d, np.float64)
        few = np.interp(d, means, photons)
        read = (self.read / self.gain) ** 2
        safe = np.maximum(d, means[-1])
        many = safe**2 / 4 + 0.25 - 0.375 - read  # E[f] = 2√(λ + ⅜ + r²) − ¼λ^{-½} + O(λ^{-3/2})
        return self.offset + self.gain * np.where(d > means[-1], many, few)

    def _table(self):
        """Counts from 0 to MANY, and the mean of the transform at each, summed over photons and read noise."""
        photons = np.linspace(0.0, MANY**0.5, GRID) ** 2
        counts = np.arange(int(MANY + 12 * MANY**0.5) + 1)
        nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
        z = self.gain * counts[:, None] + self.offset + self.read * nodes
        mean = self.stabilise(z) @ (weights / weights.sum())
        log_poisson = xlogy(counts[None], photons[:, None]) - photons[:, None] - gammaln(counts[None] + 1)
        return photons, np.exp(log_poisson) @ mean

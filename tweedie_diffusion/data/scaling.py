"""Between the values images are stored in and [-1, 1], the range every noise level is stated in."""

import dataclasses
from collections.abc import Callable

import numpy as np

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.data.photon_noise import PhotonNoise

PHOTON_PERCENTILES = (0.1, 99.9)  # of counts, whose dtype says nothing of their range


@dataclasses.dataclass(frozen=True)
class Scaling:
    """x = 2·(v − low)/(high − low) − 1, v the stored value, or what stabilises its photon noise.

    Attributes:
        low, high: values that become −1 and 1; of each channel, or of all.
        dtype: name of the stored dtype; integers are rounded on the way back.
        bounded: whether values outside [low, high] are meaningless for a clean image, so that the way back clips.
        photons: Poisson–Gaussian noise that v is stabilised for, or None.
    """

    low: float | tuple[float, ...]
    high: float | tuple[float, ...]
    dtype: str
    bounded: bool = True
    photons: PhotonNoise | None = None

    def to_unit(self, stored) -> np.ndarray:
        """Stored values to [-1, 1], float32 of the same shape."""
        if self.photons is not None:
            stored = self.photons.stabilise(stored)
        if _is_wide(np.asarray(stored).dtype):
            return ((np.asarray(stored, np.float64) - self._middle) * (2 / self._span)).astype(np.float32)
        return np.asarray(stored, np.float32) * _float32(2 / self._span) - _float32(self._middle * 2 / self._span)

    def values(self, x) -> np.ndarray:
        """[-1, 1] to stored values, float32 or float64, not rounded."""
        value = self._in_range(x)
        if self.bounded:
            value = np.clip(value, self.low, self.high)
        return value if self.photons is None else self.photons.restore(value).astype(value.dtype)

    def noisy_values(self, x) -> np.ndarray:
        """The same for noisy images: nothing is clipped, or averaged over photon noise."""
        value = self._in_range(x)
        return value if self.photons is None else self.photons.unstabilise(value).astype(value.dtype)

    def from_unit(self, x) -> np.ndarray:
        """[-1, 1] to stored values, in the stored dtype."""
        value = self.values(x)
        if np.issubdtype(np.dtype(self.dtype), np.integer):
            limits = np.iinfo(self.dtype)
            value = np.clip(np.rint(value.astype(np.float64)), limits.min, limits.max)
        return value.astype(self.dtype)

    def sigma_to_unit(self, sigma):
        """A standard deviation in stored values to [-1, 1]; of stabilised ones it is 1 before."""
        return np.asarray(sigma) * 2 / self._span

    def sigma_from_unit(self, sigma):
        """The way back."""
        return np.asarray(sigma) * self._span / 2

    def of_dtype(self, dtype) -> "Scaling":
        """The same for images stored in another dtype."""
        return dataclasses.replace(self, dtype=np.dtype(dtype).name)

    @staticmethod
    def from_dict(fields: dict) -> "Scaling":
        """What `dataclasses.asdict` and JSON made of one."""
        low, high = (tuple(v) if isinstance(v := fields[end], list) else v for end in ("low", "high"))
        photons = PhotonNoise(**fields["photons"]) if fields.get("photons") else None
        return Scaling(low, high, fields["dtype"], fields["bounded"], photons)

    def _in_range(self, x):
        """Values of the range for [-1, 1], in a float that holds what the dtype can."""
        kind = np.float64 if _is_wide(np.dtype(self.dtype)) else np.float32
        return np.asarray(x, kind) * (self._span / 2).astype(kind) + self._middle.astype(kind)

    @property
    def _span(self):
        return np.asarray(self.high) - np.asarray(self.low)

    @property
    def _middle(self):
        return (np.asarray(self.high) + np.asarray(self.low)) / 2


@dataclasses.dataclass(frozen=True)
class ScalingRule:
    """How stored values become [-1, 1].

    Attributes:
        value_range: (low, high) stored values of clean images; None guesses from the dtype.
        percentiles: (low, high) of the stored values themselves, instead.
        channel_sigmas: noise of each channel, in stored units: channels are scaled so that their noise is equal.
        photons: Poisson–Gaussian noise, stabilised first.
    """

    value_range: tuple[float, float] | None = None
    percentiles: tuple[float, float] | None = None
    channel_sigmas: tuple[float, ...] = ()
    photons: PhotonNoise | None = None

    def scaling(self, dtype, sample: Callable[[], np.ndarray], *, bounded: bool) -> Scaling:
        """The scaling of images.

        Args:
            dtype: of the stored images.
            sample: makes some of them, [N, ...], if their values are needed.
            bounded: whether clean values lie inside the range, if that is stated or known by the dtype.

        Raises:
            InputError: if the range is not increasing, or cannot be guessed, or channels do not fit.
        """
        percentiles = self.percentiles
        if self.photons and not self.value_range and not percentiles:
            percentiles = PHOTON_PERCENTILES
        if percentiles:
            low, high = np.percentile(sample(), percentiles)
            if not low < high:
                raise InputError(f"the images hold one value, {low:g}, between these percentiles: state data.range")
            scaling = Scaling(float(low), float(high), np.dtype(dtype).name, bounded=False)
        else:
            scaling = infer_scaling(dtype, self.value_range, bounded=bounded)
        if self.photons:
            low, high = (float(self.photons.stabilise(v)) for v in (scaling.low, scaling.high))
            if not low < high:
                raise InputError(f"data.range={scaling.low:g} to {scaling.high:g} holds no light: check data.photons")
            scaling = dataclasses.replace(scaling, low=low, high=high, photons=self.photons)
        return self._equal_noise(scaling, sample)

    def _equal_noise(self, scaling, sample):
        sigmas = np.asarray(self.channel_sigmas)
        if not len(sigmas):
            return scaling
        if len(sigmas) != sample().shape[-1]:
            raise InputError(f"data.channel_sigmas has {len(sigmas)} levels for {sample().shape[-1]} channels")
        half = (scaling.high - scaling.low) / 2 * sigmas / sigmas.min()
        middle = (scaling.high + scaling.low) / 2
        ends = {"low": tuple((middle - half).tolist()), "high": tuple((middle + half).tolist())}
        return dataclasses.replace(scaling, **ends, bounded=False)


def infer_scaling(dtype, value_range: tuple[float, float] | None, *, bounded: bool) -> Scaling:
    """The scaling of images of a dtype: uint8 from (0, 255), uint16 from (0, 65535), floats taken as [-1, 1] already.

    Args:
        dtype: of the stored images.
        value_range: (low, high), overrides the guess; None guesses.
        bounded: whether clean values lie inside the range.

    Raises:
        InputError: if the range is not increasing, or cannot be guessed for the dtype.
    """
    dtype = np.dtype(dtype)
    if value_range is not None:
        low, high = (float(v) for v in value_range)
        if not (np.isfinite([low, high]).all() and low < high):
            raise InputError(f"data.range must be (low, high) with low < high (got {tuple(value_range)})")
        return Scaling(low, high, dtype.name, bounded)
    if dtype.kind == "f":
        return Scaling(-1.0, 1.0, dtype.name, bounded)
    if dtype in (np.uint8, np.uint16):
        return Scaling(0.0, float(np.iinfo(dtype).max), dtype.name, bounded)
    raise InputError(
        f"images of dtype {dtype} have no usual range: state it, e.g. --config.data.range='(0, 4095)', "
        "or take it from the images: --config.data.range_percentiles='(0.1, 99.9)'"
    )


def _is_wide(dtype):
    """Whether float32 would round its values."""
    return dtype.itemsize > 4 or dtype.name in ("int32", "uint32")


def _float32(value):
    return np.asarray(value, np.float32)

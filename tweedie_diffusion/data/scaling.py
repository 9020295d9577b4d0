"""Between the range images are stored in and [-1, 1], the range every noise level is stated in."""

import dataclasses

import numpy as np

from tweedie_diffusion.data.errors import InputError


@dataclasses.dataclass(frozen=True)
class Scaling:
    """x = 2·(stored − low)/(high − low) − 1.

    Attributes:
        low, high: stored values that become −1 and 1.
        dtype: name of the stored dtype; integers are rounded on the way back.
        bounded: whether values outside [low, high] are meaningless for a clean image, so that the way back clips.
    """

    low: float
    high: float
    dtype: str
    bounded: bool = True

    def to_unit(self, stored) -> np.ndarray:
        """Stored values to [-1, 1], float32 of the same shape."""
        return np.asarray(stored, np.float32) * np.float32(2 / self._span) - np.float32(self._middle * 2 / self._span)

    def from_unit(self, x) -> np.ndarray:
        """[-1, 1] to stored values, in the stored dtype."""
        stored = np.asarray(x, np.float32) * np.float32(self._span / 2) + np.float32(self._middle)
        if self.bounded:
            stored = np.clip(stored, self.low, self.high)
        if np.issubdtype(np.dtype(self.dtype), np.integer):
            limits = np.iinfo(self.dtype)
            stored = np.clip(np.rint(stored), limits.min, limits.max)
        return stored.astype(self.dtype)

    @property
    def _span(self):
        return self.high - self.low

    @property
    def _middle(self):
        return (self.high + self.low) / 2


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
    raise InputError(f"images of dtype {dtype} have no usual range: state it, e.g. --config.data.range='(0, 4095)'")

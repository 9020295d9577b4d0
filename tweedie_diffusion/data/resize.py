"""Central square and resize, for clean images only: interpolation would colour the noise of noisy ones."""

import numpy as np
from PIL import Image

from tweedie_diffusion.data.errors import InputError


def crop_and_resize(image: np.ndarray, size: int) -> np.ndarray:
    """The central square of `image` [H, W, C], resized to [size, size, C] by area averaging (Pillow's BOX filter)."""
    side = min(image.shape[:2])
    if side < size:
        raise InputError(f"data.image_size={size} would enlarge an image of {image.shape[0]}×{image.shape[1]}")
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    square = image[top : top + side, left : left + side]
    channels = [
        np.asarray(Image.fromarray(square[..., c].astype(np.float32)).resize((size, size), Image.Resampling.BOX))
        for c in range(square.shape[-1])
    ]
    resized = np.stack(channels, axis=-1)
    return (np.rint(resized) if image.dtype.kind in "ui" else resized).astype(image.dtype)

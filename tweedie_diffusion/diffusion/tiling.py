"""A denoiser of large images from one of small squares."""

import jax
import jax.numpy as jnp
import numpy as np

from tweedie_diffusion.diffusion.types import DenoiseFn

TILES_A_CALL = 64


def tiled(denoise: DenoiseFn, shape: tuple[int, ...]) -> DenoiseFn:
    """E[x_0 | x_t] of images at least as large as `shape`, from overlapping tiles, blended smoothly.

    Σₖ wₖ·denoise(tileₖ) / Σₖ wₖ with wₖ = sin² towards the edges of a tile: neighbours overlap by half or more, so
    every pixel is seen with its surroundings, and no seam shows. The blend is again a denoiser, of images whose tiles
    are like those of training.

    Args:
        denoise: of images [B, *shape].
        shape: [h, w, C] of a tile.

    Returns:
        (x_t [B, H, W, C], sigma [B]) -> [B, H, W, C], H >= h and W >= w.
    """
    height, width = shape[:2]
    window = np.outer(_bump(height), _bump(width))[..., None].astype(np.float32)

    def denoise_large(x_t, sigma):
        batch, large = x_t.shape[0], x_t.shape[1:]
        tops, lefts = (_starts(have, tile) for have, tile in zip(large, (height, width), strict=False))
        places = np.stack(np.meshgrid(np.arange(batch), tops, lefts, indexing="ij"), axis=-1).reshape(-1, 3)
        size = min(TILES_A_CALL, len(places))
        calls = -(-len(places) // size)
        counted = np.arange(calls * size).reshape(calls, size) < len(places)  # the last call is filled up
        levels = jnp.broadcast_to(sigma, (batch,))

        def add(total, call):
            places, counted = call
            image, top, left = places.T
            rows, columns = top[:, None] + np.arange(height)[None], left[:, None] + np.arange(width)[None]
            where = image[:, None, None], rows[:, :, None], columns[:, None, :]
            x0_hat = denoise(x_t[where], levels[image])
            return total.at[where].add(window[None] * counted[:, None, None, None] * x0_hat), None

        calls_of_places = np.resize(places, (calls, size, 3))
        total, _ = jax.lax.scan(add, jnp.zeros_like(x_t), (calls_of_places, counted))
        weights = np.outer(_covered(large[0], tops, height), _covered(large[1], lefts, width))
        return total / weights.astype(np.float32)[None, :, :, None]

    return denoise_large


def _starts(size: int, tile: int) -> np.ndarray:
    """Where tiles begin, evenly, so that neighbours overlap by half at least."""
    count = 1 if size == tile else 1 + -(-2 * (size - tile) // tile)
    return np.rint(np.linspace(0, size - tile, count)).astype(int)


def _covered(size: int, starts: np.ndarray, tile: int) -> np.ndarray:
    """[size] the sum of the weights of the tiles along one axis."""
    total = np.zeros(size)
    for start in starts:
        total[start : start + tile] += _bump(tile)
    return total


def _bump(size: int) -> np.ndarray:
    """sin², never 0."""
    return np.sin(np.pi * (np.arange(size) + 0.5) / size) ** 2

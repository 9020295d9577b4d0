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
    height, width, channels = shape
    window = np.outer(_bump(height), _bump(width))[..., None].astype(np.float32)

    def denoise_large(x_t, sigma):
        batch, large = x_t.shape[0], x_t.shape[1:]
        tops, lefts = (_starts(have, tile) for have, tile in zip(large, (height, width), strict=False))
        corners = np.stack(np.meshgrid(tops, lefts, indexing="ij"), axis=-1).reshape(-1, 2)
        rows = corners[:, :1, None] + np.arange(height)[None, :, None]  # [T, h, 1]
        columns = corners[:, 1:, None] + np.arange(width)[None, None, :]  # [T, 1, w]
        tiles = x_t[:, rows, columns].reshape(-1, height, width, channels)
        levels = jnp.repeat(jnp.broadcast_to(sigma, (batch,)), len(corners))
        one = lambda tile_and_level: denoise(tile_and_level[0][None], tile_and_level[1][None])[0]
        x0_hat = jax.lax.map(one, (tiles, levels), batch_size=min(TILES_A_CALL, len(levels)))
        weighted = (window[None] * x0_hat).reshape(batch, len(corners), height, width, channels)
        total = jnp.zeros_like(x_t).at[:, rows, columns].add(weighted)
        weights = np.zeros((*large[:2], 1), np.float32)
        np.add.at(weights, (rows, columns), window[None])
        return total / weights[None]

    return denoise_large


def _starts(size: int, tile: int) -> np.ndarray:
    """Where tiles begin, evenly, so that neighbours overlap by half at least."""
    count = 1 if size == tile else 1 + -(-2 * (size - tile) // tile)
    return np.rint(np.linspace(0, size - tile, count)).astype(int)


def _bump(size: int) -> np.ndarray:
    """sin², never 0."""
    return np.sin(np.pi * (np.arange(size) + 0.5) / size) ** 2

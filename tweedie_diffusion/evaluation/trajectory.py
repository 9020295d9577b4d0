"""The reverse process as an animated picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tweedie_diffusion.evaluation.figures import BLUE, new_figure, tidy
from tweedie_diffusion.evaluation.pictures import image_grid, plane_limit

FRAME_MS, HOLD_MS = 120, 2000
TITLES = ("x_t / √(1 + σ²)", "denoised")
LINE, TYPE = 22, 14  # pixels a line of text takes, and its type
MOST_IMAGES, MOST_POINTS = 16, 2000


def trajectory_gif(path: Path, frames: tuple[np.ndarray, np.ndarray], sigmas, *, columns: int = 4) -> None:
    """Write the reverse process as a GIF that loops: x_t and what the denoiser makes of it, side by side.

    x_t is shown over √(1 + σ²), as the variance-preserving process has it: at high levels it is brighter than any
    image. The last frame stays for two seconds.

    Args:
        path: of the .gif.
        frames: x_t and x0_hat of `reverse_trajectory`, both [N, B, H, W, C] or [N, B, D]; the first 16 images, or 2 000
            points, are shown.
        sigmas: [N] levels, or [N, B], of which the first are written.
        columns: images side by side.
    """
    x_t, x0_hat = (np.asarray(x, np.float32) for x in frames)
    levels = np.asarray(sigmas, np.float64).reshape(len(x_t), -1)
    scale = np.sqrt(1 + np.square(levels)).astype(np.float32)
    x_t = x_t / scale.reshape(*scale.shape, *(1,) * (x_t.ndim - 2))
    drawn = _image_frames if x_t.ndim == 5 else _point_frames
    pictures = drawn(x_t, x0_hat, [f"σ = {_digits(level)}" for level in levels[:, 0]], columns)
    durations = [FRAME_MS] * (len(pictures) - 1) + [HOLD_MS]
    pictures[0].save(path, "GIF", save_all=True, append_images=pictures[1:], duration=durations, loop=0)


def _digits(level):
    """Of a width that does not change from frame to frame."""
    return f"{level:.1f}" if level >= 10 else f"{level:.2f}" if level >= 0.1 else f"{level:.3f}"


def _image_frames(x_t, x0_hat, words, columns):
    """The two grids of each step, with a line of text above and one below."""
    columns = min(columns, x_t.shape[1])
    font = _font()
    pictures = []
    for noisy, denoised, text in zip(x_t[:, :MOST_IMAGES], x0_hat[:, :MOST_IMAGES], words, strict=True):
        grids = [image_grid(x, columns=columns) for x in (noisy, denoised)]
        wide, high = grids[0].size
        step = max(wide, 130) + LINE
        picture = Image.new(grids[0].mode, (2 * step, high + 2 * LINE), "white")
        draw = ImageDraw.Draw(picture)
        for i, (grid, title) in enumerate(zip(grids, TITLES, strict=True)):
            picture.paste(grid, (i * step + LINE // 2, LINE))
            draw.text((i * step + LINE // 2 + 2, 2), title, fill="black", font=font)
        draw.text((LINE // 2 + 2, high + LINE + 2), text, fill="black", font=font)
        pictures.append(picture)
    return pictures


def _point_frames(x_t, x0_hat, words, _):
    """The two clouds of each step, on one figure drawn again and again."""
    figure, axes = new_figure(1, 2, width=7, height=3.9)
    x_t, x0_hat = (x[:, :MOST_POINTS] for x in (x_t, x0_hat))
    most = 1.4 * plane_limit([x0_hat[-1]])  # room for noise, most of which lies within 2
    clouds = []
    for axis, title in zip(axes, TITLES, strict=True):
        clouds.append(axis.scatter([], [], s=6, alpha=0.5, linewidths=0, color=BLUE))
        axis.set(aspect="equal", xlim=(-most, most), ylim=(-most, most))
        axis.set_title(title, fontsize=10)
        tidy(axis)
    text = axes[0].text(0, 1.04, "", fontsize=10, transform=axes[0].transAxes)
    pictures = []
    for noisy, denoised, words_here in zip(x_t, x0_hat, words, strict=True):
        for cloud, points in zip(clouds, (noisy, denoised), strict=True):
            cloud.set_offsets(points[:, [0, min(1, points.shape[1] - 1)]])
        text.set_text(words_here)
        pictures.append(_pixels(figure))
    return pictures


def _pixels(figure):
    figure.canvas.draw()
    return Image.fromarray(np.asarray(figure.canvas.buffer_rgba())[..., :3].copy())


def _font():
    """The type of the plots, which has Greek letters."""
    from matplotlib.font_manager import findfont

    return ImageFont.truetype(findfont("DejaVu Sans"), TYPE)

"""What every picture is drawn on, and with: figures without pyplot, and colours that all eyes tell apart."""

from __future__ import annotations

import functools
import io
import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from PIL import Image

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito (2008), "Color universal design".
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILLION, PURPLE = "#0072B2", "#D55E00", "#CC79A7"
INK = "#333333"
DPI = 160


class Look(NamedTuple):
    """How a line is drawn: no two share any of the three, so that a copy in grey can be read."""

    color: str
    linestyle: str | tuple
    marker: str


# All but the first have gaps, in which a line that they coincide with is seen.
LOOKS = (
    Look(BLUE, "-", "o"),
    Look(VERMILLION, "--", "s"),
    Look(BLACK, ":", "^"),
    Look(GREEN, "-.", "D"),
    Look(ORANGE, (0, (8, 2)), "v"),
    Look(PURPLE, (0, (3, 1, 1, 1, 1, 1)), "P"),
)


def looks_of(names: Iterable[str]) -> dict[str, Look]:
    """A look for each name, in their order."""
    return dict(zip(dict.fromkeys(names), itertools.cycle(LOOKS), strict=False))


def new_figure(
    rows: int,
    columns: int,
    *,
    width: float,
    height: float,
    layout: Literal["constrained", "compressed"] = "constrained",
) -> tuple[Figure, list[Axes]]:
    """A figure in inches, and its axes row by row. It is not pyplot's: nothing global is touched, nothing leaks.

    A notebook shows it all the same, as the last value of a cell.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # matplotlib loads when something is drawn
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout=layout)
    FigureCanvasAgg(figure)
    vars(figure)["_repr_png_"] = functools.partial(png_of, figure, dpi=100)  # IPython looks for it
    return figure, list(figure.subplots(rows, columns, squeeze=False).ravel())


def tidy(axis: Axes) -> None:
    """Type of one size, and no frame on the right and at the top."""
    axis.tick_params(labelsize=9)
    axis.spines[["top", "right"]].set_visible(False)


def legend(axis: Axes, **where) -> None:
    """The legend of an axis that has several lines, or one with a name; none if there is nothing to tell apart."""
    if axis.get_legend_handles_labels()[1]:
        # White, so that a shade named in it is seen wherever it stands.
        axis.legend(fontsize=9, handlelength=3, facecolor="white", edgecolor="none", framealpha=1, **where)


def png_of(picture: Figure | Image.Image, *, dpi: int = DPI) -> bytes:
    """A figure, or a picture of Pillow pixel by pixel, as the bytes of a PNG."""
    file = io.BytesIO()
    if isinstance(picture, Image.Image):
        picture.save(file, "PNG")
    else:
        picture.savefig(file, format="png", dpi=dpi)
    return file.getvalue()


def save_figure(path: Path, picture: Figure | Image.Image) -> None:
    """Write a picture as PNG, whatever the name ends in."""
    path.write_bytes(png_of(picture))

import io
import itertools

import numpy as np
from PIL import Image

from tweedie_diffusion.evaluation.figures import LOOKS, looks_of, new_figure, png_of, save_figure

# Machado, Oliveira and Fernandes (2009), deuteranopia in full, on linear RGB.
DEUTERANOPIA = [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
XYZ = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]  # of sRGB, IEC 61966-2-1
ALL_CONES = np.eye(3)
WHITE = np.sum(XYZ, axis=1)


def lab(color, seen_by=ALL_CONES):
    """CIE 1976 L*a*b* of a colour #rrggbb."""
    rgb = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    t = np.clip(seen_by @ linear, 0, 1) @ np.transpose(XYZ) / WHITE
    x, y, z = np.where(t > (6 / 29) ** 3, np.cbrt(t), t * (29 / 6) ** 2 / 3 + 4 / 29)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def test_no_two_lines_have_the_same_colour_or_dashes_or_marker():
    assert all(len(set(values)) == len(LOOKS) for values in zip(*LOOKS, strict=True))


def test_the_first_four_colours_differ_for_eyes_without_green_cones():
    least = lambda *colors: min(np.linalg.norm(a - b) for a, b in itertools.combinations(colors, 2))
    seen = lambda *colors: [lab(color, np.array(DEUTERANOPIA)) for color in colors]
    assert least(*seen(*(look.color for look in LOOKS[:4]))) > 40  # 2 can just be told apart
    assert least(*seen("#d62728", "#2ca02c")) < 10 < least(lab("#d62728"), lab("#2ca02c"))  # a red and a green cannot


def test_every_line_stands_out_from_white_paper():
    assert all(lab(look.color)[0] < 75 for look in LOOKS)  # of 100


def test_looks_follow_the_order_of_names():
    assert looks_of("aba") == {"a": LOOKS[0], "b": LOOKS[1]}
    assert len(looks_of("abcdefghi")) == 9


def test_a_figure_is_of_the_inches_asked_for(tmp_path):
    figure, axes = new_figure(2, 3, width=3, height=2)
    assert len(axes) == 6
    save_figure(tmp_path / "a.png", figure)
    with Image.open(tmp_path / "a.png") as image:
        assert (image.format, image.size) == ("PNG", (480, 320))


def test_a_notebook_shows_a_figure_without_pyplot():
    figure, _ = new_figure(1, 1, width=3, height=2)
    with Image.open(io.BytesIO(figure._repr_png_())) as image:
        assert image.size == (300, 200)


def test_a_picture_keeps_its_pixels(rng):
    pixels = rng.integers(0, 256, (5, 7)).astype(np.uint8)
    with Image.open(io.BytesIO(png_of(Image.fromarray(pixels)))) as image:
        np.testing.assert_array_equal(np.asarray(image), pixels)

import numpy as np
import pytest
from PIL import Image

from tweedie_diffusion.evaluation.pictures import image_grid
from tweedie_diffusion.evaluation.trajectory import trajectory_gif

SIGMAS = np.array([3.0, 1.0, 0.5, 0.0])


def frames_of(path):
    """[(grey or RGB pixels, milliseconds)], and how often it is played; 0 is for ever."""
    with Image.open(path) as gif:
        found = []
        for i in range(gif.n_frames):
            gif.seek(i)
            found.append((np.asarray(gif.convert("RGB")), gif.info["duration"]))
        return found, gif.info["loop"]


@pytest.fixture
def images(rng):
    return rng.uniform(-1, 1, (4, 5, 8, 8, 1)), rng.uniform(-1, 1, (4, 5, 8, 8, 1))


def test_a_frame_a_level_and_the_last_is_held(tmp_path, images):
    trajectory_gif(tmp_path / "a.gif", images, SIGMAS)
    frames, loop = frames_of(tmp_path / "a.gif")
    assert loop == 0
    assert [duration for _, duration in frames] == [120, 120, 120, 2000]


def test_the_state_and_what_is_made_of_it_stand_side_by_side(tmp_path, images):
    x_t, x0_hat = images
    trajectory_gif(tmp_path / "a.gif", images, SIGMAS, columns=3)
    frames, _ = frames_of(tmp_path / "a.gif")
    for n, (pixels, _) in enumerate(frames):
        half = pixels.shape[1] // 2
        scaled = x_t[n] / np.sqrt(1 + SIGMAS[n] ** 2)
        for x, shown in ((scaled, pixels[:, :half, 0]), (x0_hat[n], pixels[:, half:, 0])):
            grid = np.asarray(image_grid(x, columns=3))
            np.testing.assert_array_equal(shown[22 : 22 + grid.shape[0], 11 : 11 + grid.shape[1]], grid)


def test_the_level_is_written_on_every_frame(tmp_path, images):
    still = tuple(np.zeros_like(x) for x in images)  # nothing else changes
    trajectory_gif(tmp_path / "a.gif", still, SIGMAS)
    frames, _ = frames_of(tmp_path / "a.gif")
    assert len({pixels.tobytes() for pixels, _ in frames}) == 4
    rows = np.flatnonzero((frames[0][0] != frames[1][0]).any(axis=(1, 2)))
    assert rows.min() >= frames[0][0].shape[0] - 22


def test_levels_of_their_own_rows_are_each_used(tmp_path, images):
    levels = np.stack([SIGMAS, 2 * SIGMAS, SIGMAS, SIGMAS, SIGMAS], axis=1)
    trajectory_gif(tmp_path / "a.gif", images, levels)
    frames, _ = frames_of(tmp_path / "a.gif")
    expected = np.asarray(image_grid(images[0][0] / np.sqrt(1 + levels[0] ** 2)[:, None, None, None], columns=4))
    np.testing.assert_array_equal(frames[0][0][22 : 22 + expected.shape[0], 11 : 11 + expected.shape[1], 0], expected)


def test_points_move_to_where_they_are_at_each_level(tmp_path):
    x_t = np.stack([np.full((50, 2), v) for v in (-1.0, 0.0, 1.0)])
    trajectory_gif(tmp_path / "a.gif", (x_t, x_t), [1e-3, 1e-3, 1e-3])
    frames, _ = frames_of(tmp_path / "a.gif")
    centres = []
    for pixels, _ in frames:
        left = pixels[:, : pixels.shape[1] // 2].astype(int)
        blue = left[..., 2] > left[..., 0] + 60
        centres.append([place.mean() for place in np.nonzero(blue)])
    steps = np.diff(centres, axis=0)
    assert (steps[:, 0] < -20).all()  # up
    assert (steps[:, 1] > 20).all()  # to the right
    np.testing.assert_allclose(steps[0], steps[1], atol=2)

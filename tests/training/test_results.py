import io
import struct

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto.event_pb2 import Event

from tweedie_diffusion.data.noisy import NoiseModel, open_dataset
from tweedie_diffusion.data.scaling import Scaling
from tweedie_diffusion.data.sources import in_memory
from tweedie_diffusion.diffusion.oracles import gaussian_denoiser
from tweedie_diffusion.evaluation.figures import save_figure
from tweedie_diffusion.evaluation.pictures import image_grid, samples_picture
from tweedie_diffusion.training import metrics as metrics_module
from tweedie_diffusion.training.config import default_config
from tweedie_diffusion.training.facts import facts_of
from tweedie_diffusion.training.loop import train
from tweedie_diffusion.training.metrics import Metrics
from tweedie_diffusion.training.results import held_out_curve, scored_pictures, show_results
from tweedie_diffusion.training.trained import TrainedModel


def events_of(path):
    """The events of a file of TensorBoard: length, its checksum, the event, its checksum, again and again."""
    data, at = path.read_bytes(), 0
    while at < len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        yield Event.FromString(data[at + 12 : at + 12 + length])
        at += 12 + length + 4


def board_of(workdir):
    """(name, step) -> pixels, of all pictures in TensorBoard."""
    found = {}
    for path in sorted((workdir / "tensorboard").iterdir()):
        for event in events_of(path):
            for value in event.summary.value:
                if value.HasField("image"):
                    with Image.open(io.BytesIO(value.image.encoded_image_string)) as image:
                        assert (value.image.width, value.image.height) == image.size
                        found[value.tag, event.step] = np.asarray(image.convert("RGB"))
    return found


def scored(sigma_tn):
    """scored_pictures of an exact denoiser of images, and its model."""
    stored = np.random.default_rng(0).normal(0.0, 0.5, (60, 8, 8, 1)).astype(np.float32)
    images = in_memory(stored, Scaling(-1, 1, "float32", bounded=False))
    dataset = open_dataset(images, NoiseModel(sigma_tn), held_out=0.5, split_seed=0)
    config = default_config()
    config.sampling.num_steps = 4
    config.evaluation.sigmas = (0.1, 0.5)
    make_denoise = lambda params, **_: gaussian_denoiser(0.0, params["variance"])
    model = TrainedModel(config, facts_of(dataset), make_denoise, {"variance": jnp.float32(0.25)})
    return model, scored_pictures(model, dataset, held_out_curve(model, dataset), lambda: model.sample(range(70)))


def test_a_scoring_shows_its_samples_its_curve_and_denoised_images():
    model, pictures = scored(0.3)
    assert set(pictures) == {"samples", "denoising_curve", "denoised"}
    with Image.open(io.BytesIO(pictures["samples"])) as image:
        np.testing.assert_array_equal(np.asarray(image), np.asarray(image_grid(model.sample(range(64)), columns=8)))


def test_of_clean_images_none_is_denoised():
    assert set(scored(0.0)[1]) == {"samples", "denoising_curve"}


def test_a_run_shows_pictures_at_every_save_and_its_results(config, tmp_path):
    config.consistency.weight = 0.0
    config.training.steps, config.training.save_every, config.sampling.num_steps = 4, 2, 2
    train(config, tmp_path)
    shown = board_of(tmp_path)
    names = {"samples", "denoising_curve", "denoised"}
    results = {f"results/{name}" for name in (*names, "samples_truncated")}
    assert set(shown) == {(name, step) for name in names for step in (2, 4)} | {(name, 4) for name in results}
    with Image.open(tmp_path / "denoised.png") as image:
        np.testing.assert_array_equal(shown["results/denoised", 4], np.asarray(image.convert("RGB")))


def test_there_is_nothing_to_show_of_a_run_without_pictures(tmp_path):
    show_results(tmp_path, 3)
    assert list(tmp_path.iterdir()) == []


def test_results_that_cannot_be_shown_stop_nothing(tmp_path, rng):
    save_figure(tmp_path / "samples.png", samples_picture(rng.uniform(-1, 1, (2, 8, 8, 1))))
    show_results(tmp_path, 3)  # there is no tensorboard/
    assert [path.name for path in tmp_path.iterdir()] == ["samples.png"]


def test_pictures_on_a_full_disk_stop_nothing(tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    with Metrics(tmp_path, start=0, total=2, batch_size=1) as metrics:
        monkeypatch.setattr(metrics_module, "_write_pictures", full)
        metrics.show(1, {"samples": b""})
        metrics.write(1, {"loss": 0.5})
    assert "metrics cannot be written (No space left on device)" in capsys.readouterr().out
    assert '"loss": 0.5' in (tmp_path / "metrics.jsonl").read_text()


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_picture_comes_back_as_it_was(tmp_path, rng, mode):
    pixels = rng.integers(0, 256, (5, 9) if mode == "L" else (5, 9, 3)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    with Metrics(tmp_path, start=0, total=2, batch_size=1) as metrics:
        metrics.show(7, {"a": file.getvalue()})
    shown = board_of(tmp_path)["a", 7]
    np.testing.assert_array_equal(shown if mode == "RGB" else shown[..., 0], pixels)

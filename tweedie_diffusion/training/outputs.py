"""What samples are written as: one picture, arrays, a folder of images, tar archives; whole, or not there."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import tweedie_diffusion
from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.data.files import check_output, check_parent
from tweedie_diffusion.data.formats.arrays import write_stacked
from tweedie_diffusion.data.image_sets import NUMBERED, name_of, shard_path, shard_paths, write_folder, write_shards
from tweedie_diffusion.data.whole import whole, whole_folder
from tweedie_diffusion.evaluation.figures import save_figure
from tweedie_diffusion.evaluation.pictures import samples_picture
from tweedie_diffusion.training.parts import REQUEST, Request, folder_of
from tweedie_diffusion.training.trained import TrainedModel

FILES = (".png", ".npz", ".npy", ".tar")
MOST_IN_A_PICTURE = 4096  # images, that nobody could look at


@dataclasses.dataclass(frozen=True)
class Output:
    """Where samples go.

    Attributes:
        path: as it was named, without the slash of a folder.
        is_folder: whether it is one.
        shard_size: images of each archive, if there are several.
    """

    path: Path
    is_folder: bool
    shard_size: int

    def is_written(self, num: int) -> bool:
        """Whether a folder holds all of `num` samples, and only their parts were left by a stop: those of the request
        that is kept there, which `sample_in_parts` compares.
        """
        first_and_last = [any(self.path.glob(f"{name_of(i, num)}.*")) for i in (0, num - 1)] if self.is_folder else []
        return self.is_folder and all(first_and_last) and (folder_of(self.path) / REQUEST).is_file()


def output_of(out: str, num: int, shard_size: int = 0) -> Output:
    """What an --out of `num` samples names, before any work is done.

    Args:
        out: FILE.png, .npz, .npy or .tar; FILE-%05d.tar for several archives; FOLDER/, or a name without a suffix.
        num: samples.
        shard_size: images of each of several archives; 0 for 10 000.

    Raises:
        InputError: if it cannot be written, or would lie among what is there already.
    """
    path = Path(out).expanduser()
    if path.name in ("", ".."):
        raise InputError(f"--out={out} names no file, and no new folder: write it as samples.png or samples/")
    several = bool(NUMBERED.search(path.name))
    if shard_size < 0 or (shard_size and not (several and path.suffix.lower() == ".tar")):
        raise InputError("--shard_size is of several archives: name them as in --out=samples-%05d.tar")
    output = Output(path, out.endswith("/") or not path.suffix, shard_size or 10_000)
    if output.is_folder:
        if not output.is_written(num):
            _check_folder(path)
        return output
    if path.suffix.lower() not in FILES:
        raise InputError(f"{path} must end in {' or '.join(FILES)}, or be a folder, as samples/")
    if several and path.suffix.lower() != ".tar":
        raise InputError(f"{path} names several files, which only .tar are: leave out the %, or write samples-%05d.tar")
    check_output(path, FILES)
    if path.suffix.lower() == ".png" and num > MOST_IN_A_PICTURE:
        raise InputError(f"{num} images are no picture: write them to a folder, an .npz or a .tar")
    if several and (more := _further(output, num)):
        raise InputError(
            f"{more} is of other samples, which would be taken for these: remove it, or name another --out"
        )
    return output


def check_kind(output: Output, model: TrainedModel) -> None:
    """Raise InputError if what the model draws is no images, and the output holds nothing else."""
    if len(model.facts.shape) != 3 and (output.is_folder or output.path.suffix.lower() == ".tar"):
        raise InputError(f"the model of {list(model.facts.shape)} draws vectors, not images: write an .npz or .npy")


def write_samples(output: Output, model: TrainedModel, parts: Iterator[np.ndarray], request: Request) -> None:
    """Write the samples of a request, in the dtype and range of the data, part by part; a picture holds them all.

    Args:
        output: of `output_of`.
        model: that draws them.
        parts: the samples in [-1, 1], of `sample_in_parts`.
        request: of the samples: what the images are noted to be of.
    """
    labels = model.labels(np.arange(request.num), request.settings.get("label", -1))
    stored = map(model.facts.scaling.from_unit, parts)
    note = f"samples by tweedie_diffusion {tweedie_diffusion.__version__}, model {request.model}"
    note += f", seed {request.settings.get('seed', 0)}"
    if output.is_folder and output.is_written(request.num):
        return
    if output.is_folder:
        with whole_folder(output.path) as folder:
            write_folder(folder, stored, request.num, note)
        return
    paths = shard_paths(output.path, request.num, output.shard_size)
    with whole(*paths) as unfinished:
        if output.path.suffix.lower() == ".tar":
            size = request.num if len(paths) == 1 else output.shard_size
            write_shards(unfinished, stored, labels, request.num, size, note)
        elif output.path.suffix.lower() == ".png":
            save_figure(unfinished[0], samples_picture(np.concatenate(list(parts))))
        else:
            others = {} if labels is None else {"labels": labels}
            write_stacked(unfinished[0], "images", stored, request.num, others)


def _check_folder(path: Path) -> None:
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"{path} exists already: name a new folder for the samples")
    check_parent(path)


def _further(output: Output, num: int) -> Path | None:
    """An archive beyond the last of these samples that is there, as a larger sampling left it."""
    count = len(shard_paths(output.path, num, output.shard_size))
    following = shard_path(output.path, count)
    return following if following.exists() else None

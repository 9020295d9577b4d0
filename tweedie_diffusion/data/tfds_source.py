"""TFDS data sets through `data_source`: random access, without TensorFlow, and never a hidden download."""

import dataclasses
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
from etils import epath

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.data.resize import crop_and_resize
from tweedie_diffusion.data.scaling import ScalingRule
from tweedie_diffusion.data.sources import SAMPLED, Images, spaced

VERSION = r"(\d+|\*)(\.(\d+|\*)){2}"  # as in cifar10:3.0.2


def open_tfds(name: str, *, rule: ScalingRule = ScalingRule(), image_size: int = 0) -> Images:  # noqa: B008 — frozen
    """A split of a prepared TFDS data set, by name: `cifar10`, `celeb_a@train[:50%]`, `downsampled_imagenet/64x64`.

    Raises:
        InputError: if it has a namespace, there is no such data set or split, it is not prepared on this machine, or
            its images differ in size.
    """
    import tensorflow_datasets as tfds

    name, _, split = name.partition("@")
    split = split or "train"

    _, colon, version = name.partition(":")
    if colon and not re.fullmatch(VERSION, version):  # TFDS would fetch what the name asks for, code too
        raise InputError(
            f"TFDS data set {name!r} has a namespace, whose data and code TFDS would download: name one that is part "
            "of TFDS, as cifar10 or cifar10:3.0.2"
        )
    try:
        builder: Any = tfds.builder(name, file_format="array_record")
    except (tfds.core.DatasetNotFoundError, ValueError, AssertionError, ImportError) as error:
        raise InputError(f"TFDS cannot open {name!r}: {str(error).strip().splitlines()[0]}") from error
    if not builder.is_prepared():
        raise InputError(
            f"TFDS data set {name!r} is not prepared in {builder.data_path}: point TFDS_DATA_DIR at a prepared copy, "
            'or prepare it once, where TensorFlow is installed: python -c "import tensorflow_datasets as tfds; '
            f"tfds.builder('{name}', file_format='array_record').download_and_prepare()\""
        )
    try:
        records: Any = builder.as_data_source(split)
    except (KeyError, ValueError) as error:
        splits = ", ".join(builder.info.splits)
        raise InputError(f"TFDS data set {name!r} has no split {split!r}: it has {splits}") from error
    if len(records) == 0 or "image" not in records[0]:
        raise InputError(f"TFDS data set {name!r} has no images in its split {split!r}")

    def read(i: int) -> np.ndarray:
        image = np.asarray(records[i]["image"])
        return crop_and_resize(image, image_size) if image_size else image

    features: Any = builder.info.features
    if not image_size and None in features["image"].shape:
        raise InputError(f"the images of TFDS data set {name!r} differ in size: set data.image_size")
    first = read(0)
    sample = lambda: np.stack([read(int(i)) for i in spaced(len(records), SAMPLED)]).reshape(-1, first.shape[-1])
    scaling = rule.scaling(first.dtype, sample, bounded=True)
    images = Images(read, len(records), first.shape, scaling, contents=lambda: _contents(builder, split))
    if "label" not in features or not features["label"].num_classes:
        return images
    read_label = lambda i: int(records[i]["label"])
    return dataclasses.replace(images, num_classes=features["label"].num_classes, read_label=read_label)


def _contents(builder, split: str) -> Iterator[str]:
    """Name, version and split of a data set, and which records of which files these are: terabytes are not read."""
    yield f"{builder.info.full_name}@{split}"
    for part in builder.info.splits[split].file_instructions:
        file = epath.Path(part.filename)
        yield f"{file.name} {file.stat().length} {part.skip} {part.take}"

"""From clean or noisy images to what training may see: x_tn, and the level of its noise. Nothing else."""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.data.sources import Images, spaced
from tweedie_diffusion.diffusion.corruption import corrupt_example, corrupt_examples
from tweedie_diffusion.diffusion.rows import purpose_key

# Noisy float32 images are kept in memory up to this many bytes, so that each is read and corrupted once.
CACHE_BYTES = 2**30
CHUNK = 256  # examples corrupted in one call


@dataclasses.dataclass(frozen=True)
class NoiseModel:
    """What noise the images carry.

    Attributes:
        sigma_tn: the level, in [-1, 1] units, where `Images.sigma_tn` does not state one for each image.
        present: True if the images carry this noise already; False to add it here, once for ever.
        clean_fraction: the part of the images that is left clean (only if noise is added here).
        seed: of the noise, and of which images stay clean.
    """

    sigma_tn: float
    present: bool = False
    clean_fraction: float = 0.0
    seed: int = 0

    def levels(self, images: Images) -> np.ndarray:
        """[count] float32: σ_tn of every image, 0 for a clean one."""
        if self.present and images.sigma_tn is not None:
            return images.sigma_tn
        levels = np.full(images.count, self.sigma_tn, np.float32)
        # An order of its own: in that of the split, with the same seed, the clean images would be the held-out ones.
        order = shuffled(images.count, self.seed, 1)
        levels[order[: round(self.clean_fraction * images.count)]] = 0.0
        return levels


class NoisyImages:
    """Random access to noisy examples: i -> {x_tn, sigma_tn, label, index}, all that training ever sees.

    `label` is −1 without classes; `index` is the number of the image in the whole data set. Example i is the same array
    whenever, in whatever order and on whatever machine it is asked for. Of images larger than the examples it is the
    central square, unless `rows` is told its place. The noise belongs to the whole image, so that
    squares that overlap share it.
    """

    def __init__(self, images: Images, levels: np.ndarray, noise_key: jax.Array | None, indices: np.ndarray):
        """Images at `indices`; noise of `levels` is drawn from `noise_key`, or is in the images if that is None."""
        self._images, self._levels, self._indices = images, levels, indices
        self._corrupt = None if noise_key is None else _corrupter(noise_key)
        size = 4 * len(indices) * int(np.prod(images.shape))
        whole = not images.cropped and size <= CACHE_BYTES
        self._cache = np.empty((len(indices), *images.shape), np.float32) if whole else None
        self._cached = np.zeros(len(indices), bool)
        self._labels = np.full(len(indices), -1, np.int32)
        self._larger: dict[int, np.ndarray] = {}  # images that squares are cut from, while there is room
        self._room = CACHE_BYTES

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int, /) -> dict[str, np.ndarray]:
        return {name: rows[0] for name, rows in self.rows(np.array([index])).items()}

    def rows(self, indices: np.ndarray, places: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """The examples at `indices` [B], as arrays [B, ...]; `places` [B, 2] in [0, 1), of all squares that can be cut
        from a larger image, from top to bottom and left to right.
        """
        numbers = self._indices[indices]
        known = {"sigma_tn": self._levels[numbers], "index": numbers.astype(np.int32)}
        if self._images.cropped:
            chosen = [None] * len(indices) if places is None else places
            x_tn = np.stack([self._square(int(i), place) for i, place in zip(indices, chosen, strict=True)])
            return {"x_tn": x_tn, "label": self._labels[indices]} | known
        if self._cache is None:
            x_tn, labels = self._open(numbers)
            return {"x_tn": x_tn, "label": labels} | known
        missing = np.unique(indices[~self._cached[indices]])
        if len(missing):
            self._cache[missing], self._labels[missing] = self._open(self._indices[missing])
            self._cached[missing] = True
        return {"x_tn": self._cache[indices], "label": self._labels[indices]} | known

    @property
    def cropped(self) -> bool:
        """Whether examples are squares cut from larger images."""
        return self._images.cropped

    @property
    def sigma_tn(self) -> np.ndarray:
        """[len] the level of every example."""
        return self._levels[self._indices]

    @property
    def numbers(self) -> np.ndarray:
        """[len] the number of every example in the whole data set."""
        return self._indices

    def _square(self, index, place):
        """The central square of an image, or the one of a place."""
        image = self._larger.get(index)
        if image is None:
            (image,), (self._labels[index],) = self._open(self._indices[[index]])
            if self._room >= image.nbytes:
                self._larger[index] = image
                self._room -= image.nbytes
        free = np.subtract(image.shape[:2], self._images.shape[:2])
        top, left = free // 2 if place is None else (place * (free + 1)).astype(int)
        return image[top : top + self._images.shape[0], left : left + self._images.shape[1]]

    def _open(self, indices):
        x_tn = np.stack([self._images.scaling.to_unit(self._images.read(int(i))) for i in indices])
        if self._corrupt is not None:
            x_tn = self._corrupt(indices, x_tn, self._levels[indices])
        finite = np.isfinite(x_tn).reshape(len(x_tn), -1).all(axis=1)
        if not finite.all():
            raise InputError(f"image {indices[~finite][0]} holds NaN or infinity: remove it")
        read_label = self._images.read_label
        labels = [read_label(int(i)) for i in indices] if read_label else np.full(len(indices), -1)
        return x_tn, np.asarray(labels, np.int32)


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A training and a held-out part, and what is known of both.

    Attributes:
        train, held_out: noisy examples.
        held_out_clean: i -> held-out image i without noise, in [-1, 1]; None if the images are noisy already. For
            evaluation only: training examples have no such way back.
        images: the source. Only its description (shape, scaling, classes, oracle) may be used by training.
        sigma_data: √(var(x_tn) − mean σ_tn²), the standard deviation of the clean images, from noisy ones alone.
    """

    train: NoisyImages
    held_out: NoisyImages
    held_out_clean: Callable[[int], np.ndarray] | None
    images: Images
    sigma_data: float

    def some_held_out(self, most: int, *, noisy: bool = False) -> np.ndarray:
        """At most `most` numbers of held-out examples, of the noisy ones alone if `noisy`; evenly spaced: data may be
        in an order.
        """
        numbers = np.flatnonzero(self.held_out.sigma_tn > 0) if noisy else np.arange(len(self.held_out))
        return numbers[spaced(len(numbers), most)] if len(numbers) else numbers


def open_dataset(images: Images, noise: NoiseModel, *, held_out: float, split_seed: int) -> Dataset:
    """Split the images, and corrupt them as `noise` says.

    Args:
        images: from `open_images`.
        noise: what noise they carry or get.
        held_out: the part kept from training, in (0, 1).
        split_seed: fixes which images these are.

    Raises:
        InputError: if the parts are empty, or the stated noise exceeds what the images contain.
    """
    if images.sigma_tn is not None and not noise.present:
        raise InputError("the data states its noise (sigma_tn): set data.noisy_already=True, or remove that array")
    order = shuffled(images.count, split_seed)
    num_held_out = round(held_out * images.count)
    if not 2 <= num_held_out < images.count:
        raise InputError(
            f"data.held_out={held_out:g} of {images.count} images leaves fewer than 2 to hold out or none to train on: "
            "set data.held_out, or use more images"
        )
    test, train = np.sort(order[:num_held_out]), np.sort(order[num_held_out:])
    levels = noise.levels(images)
    key = None if noise.present else purpose_key(noise.seed, "noise of the data")
    train_images = NoisyImages(images, levels, key, train)
    return Dataset(
        train=train_images,
        held_out=NoisyImages(images, levels, key, test),
        held_out_clean=None if noise.present else lambda i: clean_example(images, int(test[i])),
        images=images,
        sigma_data=estimate_sigma_data(train_images),
    )


def clean_example(images: Images, index: int) -> np.ndarray:
    """Image number `index` in [-1, 1], as it is stored; of larger images the central square, as of examples."""
    return central(images.scaling.to_unit(images.read(index)), images.shape)


def central(image: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The central square of an image, of the size of `shape`; an image of that size as it is."""
    if image.shape == tuple(shape):
        return image
    top, left = np.subtract(image.shape[:2], shape[:2]) // 2
    return image[top : top + shape[0], left : left + shape[1]]


def estimate_sigma_data(noisy: NoisyImages, num_images: int = 4096) -> float:
    """√(var(x_tn) − mean σ_tn²) over at most `num_images` evenly spaced examples.

    Raises:
        InputError: if the stated noise is more than the whole variance of the images.
    """
    chosen = spaced(len(noisy), num_images)
    noise_variance = float(np.mean(np.square(noisy.sigma_tn[chosen].astype(np.float64))))
    # A few at a time: large images would not all fit.
    parts = (noisy.rows(rows)["x_tn"] for rows in np.array_split(chosen, -(-len(chosen) // CHUNK)))
    moments = np.sum(
        [[part.size, part.sum(dtype=np.float64), np.square(part, dtype=np.float64).sum()] for part in parts], 0
    )
    variance = float(moments[2] / moments[0] - (moments[1] / moments[0]) ** 2)
    if variance <= noise_variance:
        raise InputError(
            f"the images have standard deviation {variance**0.5:.4g}, no more than the stated noise "
            f"sigma_tn={noise_variance**0.5:.4g}: check data.sigma_tn (in units of [-1, 1]) and data.range"
        )
    return (variance - noise_variance) ** 0.5


def shuffled(count: int, *seeds: int) -> np.ndarray:
    """A permutation of range(count) that is the same in every version of NumPy: the order of raw Philox bits."""
    return np.argsort(np.random.Philox(seeds).random_raw(count), kind="stable")


def _corrupter(key):
    """`corrupt_example` on the host's CPU: on an accelerator the noise could differ in the last bit."""
    cpu = jax.local_devices(backend="cpu")[0]
    key = jax.device_put(key, cpu)

    def corrupt(indices, x_0, sigma_tn):
        with jax.default_device(cpu):
            if len(indices) == 1:
                return np.asarray(corrupt_example(key, int(indices[0]), x_0[0], sigma_tn=float(sigma_tn[0])))[None]
            # Chunks of one size, so that one program is compiled; the last is filled up.
            padded = np.resize(np.arange(len(indices)), -(-len(indices) // CHUNK) * CHUNK)
            chunks = [
                corrupt_examples(key, indices[rows], x_0[rows], sigma_tn=sigma_tn[rows])
                for rows in padded.reshape(-1, CHUNK)
            ]
            return np.concatenate(chunks)[: len(indices)]

    return corrupt

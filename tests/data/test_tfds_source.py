import io
import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.data.sources import open_images

LABELS = [2, 0, 1, 2, 2]


def png(value, height=4):
    file = io.BytesIO()
    Image.fromarray(np.full((height, 6, 3), value, np.uint8)).save(file, "PNG")
    file.seek(0)
    return file


with tfds.core.registered.skip_registration():  # so that it is found by its files, as a prepared copy is

    class Prepared(tfds.core.GeneratorBasedBuilder):
        """Five small images."""

        VERSION = tfds.core.Version("1.0.0")
        SHAPE = (4, 6, 3)

        def _info(self):
            image, label = tfds.features.Image(shape=self.SHAPE), tfds.features.ClassLabel(num_classes=3)
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict({"image": image, "label": label})
            )

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for i, label in enumerate(LABELS):
                yield i, {"image": png(10 * i, self.SHAPE[0] or 4 + i), "label": label}

    class OfManySizes(Prepared):
        """Five images of growing height."""

        VERSION = tfds.core.Version("1.0.0")
        SHAPE = (None, None, 3)

    class WithoutImages(Prepared):
        """Labels alone."""

        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict({"label": tfds.features.ClassLabel(num_classes=3)})
            )

        def _generate_examples(self):
            for i, label in enumerate(LABELS):
                yield i, {"label": label}


@pytest.fixture
def data_dir(tmp_path, monkeypatch):
    """An empty place for data sets, which nothing may be downloaded to."""
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def prepare(data_dir):
    return lambda builder_cls: builder_cls(data_dir=data_dir, file_format="array_record").download_and_prepare()


def test_a_prepared_data_set_is_read_without_tensorflow(prepare):
    prepare(Prepared)
    images = open_images("tfds:prepared")
    assert (images.count, images.shape, images.num_classes) == (5, (4, 6, 3), 3)
    # TFDS shuffles when it writes: value 10·i carries label LABELS[i].
    values = [int(images.read(i).mean()) for i in range(5)]
    assert sorted(values) == [0, 10, 20, 30, 40]
    assert [images.read_label(i) for i in range(5)] == [LABELS[v // 10] for v in values]


def test_its_fingerprint_is_of_its_version_split_and_files(prepare, data_dir):
    prepare(Prepared)
    of = lambda split: open_images(f"tfds:prepared{split}").fingerprint()
    assert of("") == of("@train")
    assert len({of(""), of("@train[:3]"), of("@train[1:4]")}) == 3


def test_its_fingerprint_tells_of_files_of_another_size_and_not_of_another_place(prepare, data_dir, monkeypatch):
    prepare(Prepared)
    first, moved = open_images("tfds:prepared").fingerprint(), data_dir / "moved"
    shutil.copytree(data_dir / "prepared", moved / "prepared")
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(moved))
    images = open_images("tfds:prepared")
    assert images.fingerprint() == first
    (shard,) = moved.rglob("*.array_record*")
    shard.write_bytes(shard.read_bytes() + b"more")
    assert images.fingerprint() != first


def test_images_of_many_sizes_need_image_size(prepare):
    prepare(OfManySizes)
    with pytest.raises(InputError, match=r"differ in size: set data.image_size"):
        open_images("tfds:of_many_sizes")
    images = open_images("tfds:of_many_sizes", image_size=2)
    assert {images.read(i).shape for i in range(5)} == {(2, 2, 3)}


def test_a_data_set_without_images_is_refused(prepare):
    prepare(WithoutImages)
    with pytest.raises(InputError, match="'without_images' has no images in its split 'train'"):
        open_images("tfds:without_images")


def test_an_unprepared_data_set_is_told_how_to_prepare_and_never_downloaded(data_dir, monkeypatch):
    def download(*args, **kwargs):
        raise AssertionError("tried to download")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", download)
    monkeypatch.setattr(tfds.download.DownloadManager, "download", download)
    mend = r"not prepared in .*: point TFDS_DATA_DIR at a prepared copy, or prepare it once.*download_and_prepare\(\)"
    with pytest.raises(InputError, match=mend):
        open_images("tfds:cifar10")
    assert not any(data_dir.rglob("*.array_record*"))


@pytest.mark.parametrize("name", ["huggingface:mnist", "ns:cifar10", "ns:cifar10:3.0.2", "kaggle:x@train", ":x"])
def test_names_that_tfds_would_fetch_are_refused(data_dir, monkeypatch, name):
    monkeypatch.setattr(tfds, "builder", lambda *_, **__: pytest.fail("TFDS was asked"))
    with pytest.raises(InputError, match="has a namespace, whose data and code TFDS would download"):
        open_images(f"tfds:{name}")


def test_a_version_may_be_named(prepare):
    prepare(Prepared)
    assert open_images("tfds:prepared:1.0.0").count == 5


@pytest.mark.parametrize("name", ["no_such_set", "", "cifar10/no_such_config", "cifar10:9.9.9", "a/b/c"])
def test_an_unknown_name_is_one_line(data_dir, name):
    with pytest.raises(InputError, match=f"TFDS cannot open '{name}': ") as error:
        open_images(f"tfds:{name}")
    assert "\n" not in str(error.value)

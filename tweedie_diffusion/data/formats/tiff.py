"""TIFF of 8 to 64 bits: every page is a frame."""

import math
import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import tifffile

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.data.formats import Frames, Source, as_frame, check_claim, opened

# ImageJ and OME keep units in the description.
KEPT = ("XResolution", "YResolution", "ResolutionUnit", "InterColorProfile", "Software")
TEXTS = ("DateTime", "DocumentName", "Make", "Model", "Artist", "HostComputer", "Copyright")
PRIVATE = 32768  # codes from which on tags are a maker's own, as those of GeoTIFF
# Made anew, or of no use to other pages: MetaMorph's planes, the colour profile, ImageJ's metadata.
MADE = (33628, 33629, 33630, 33631, 34675, 50838, 50839)
BIG = 2**32 - 2**25  # bytes that a plain TIFF cannot hold
LOSSLESS = (1, 5, 8, 32773, 32946, 34925, 50000)  # none, LZW, deflate, packed bits, deflate, LZMA, zstd


def open_frames(name: str, source: Source) -> Frames:
    """The pages of a TIFF; InputError if they differ in kind, or hold inks or transparency."""
    try:
        with opened(source) as file, tifffile.TiffFile(file) as tiff:
            pages = tiff.pages
            kinds = {(page.shape, page.dtype) for page in pages}
            if len(kinds) != 1:
                raise InputError(f"{name} has pages of different sizes or depths: save them apart")
            first: Any = pages[0]
            _check_whole(name, tiff)
            if first.photometric == tifffile.PHOTOMETRIC.SEPARATED:
                raise InputError(f"{name} is CMYK, inks and not light: convert it to RGB or grey")
            if first.photometric == tifffile.PHOTOMETRIC.PALETTE:
                raise InputError(f"{name} has a palette: convert it to RGB or grey")
            if first.dtype is None or first.dtype.kind not in "uif":
                raise InputError(f"{name} holds {first.dtype}, not numbers of one kind")
            if 1 in first.extrasamples or 2 in first.extrasamples:
                raise InputError(f"{name} has transparency, which has no noise model: save it without")
            check_claim(name, first.nbytes, tiff.filehandle.size)
            planar = first.axes == "SYX"
            places, frame = [page.offset for page in pages], _channels_last(first.asarray(), planar)
    except InputError:
        raise
    except Exception as error:  # what decodes damaged pages raises whatever it likes
        raise InputError(f"{name} is not a readable TIFF ({error})") from error

    def read(index: int) -> np.ndarray:
        if index == 0:
            return frame
        try:
            with opened(source) as file, tifffile.TiffFile(file) as tiff:
                tiff.filehandle.seek(places[index])  # by its number, it would be looked for from the first page on
                return _channels_last(tifffile.TiffPage(tiff, int(index)).asarray(), planar)
        except Exception as error:
            raise InputError(f"{name} is damaged at page {index} ({error})") from error

    return Frames(len(places), frame.shape, frame.dtype, read, source)


def write_frames(path: Path | BinaryIO, frames: np.ndarray, like: Frames, note: str) -> None:
    """A TIFF with a page a frame, the same resolution, texts, private tags and compression; software is the note."""
    header = _header(like.header) if like.header else {}
    pages = frames[..., 0] if frames.shape[-1] == 1 else frames
    descriptions = header.get("descriptions", [])
    photometric = header.get("photometric", "rgb" if frames.shape[-1] == 3 else "minisblack")
    extra = frames.shape[-1] - (3 if photometric == tifffile.PHOTOMETRIC.RGB or photometric == "rgb" else 1)
    resolution = [header.get(tag, (0, 0)) for tag in ("XResolution", "YResolution")]
    known = all(above and below for above, below in resolution)
    settings = {
        "photometric": photometric,
        "planarconfig": "contig" if frames.shape[-1] > 1 else None,
        "extrasamples": (0,) * extra or None,
        "software": f"{note}; before it: {header['Software']}" if header.get("Software") else note,
        "metadata": None,
        "resolution": resolution if known else None,
        "resolutionunit": header.get("ResolutionUnit") if known else None,
        "compression": header.get("compression"),
        "iccprofile": header.get("InterColorProfile"),
    }
    parts = zip(pages, descriptions, strict=True) if len(descriptions) > 1 else [(pages, *descriptions)]
    with tifffile.TiffWriter(path, bigtiff=frames.nbytes > BIG) as written:
        for n, (part, *text) in enumerate(parts):
            description, tags = "".join(text).encode() or None, [] if n else header.get("tags", [])
            written.write(part, description=description, extratags=tags, **settings)


def _header(source: Source) -> dict[str, Any]:
    """What is written back beside the pixels."""
    with opened(source) as file, tifffile.TiffFile(file) as tiff:
        pages = tiff.pages
        first: Any = pages[0]
        header = {tag: first.tags[tag].value for tag in KEPT if tag in first.tags}
        header["tags"] = [kept for tag in first.tags if (kept := _kept(tag))]
        if "IJMetadata" in first.tags:
            header["tags"] += tifffile.imagej_metadata_tag(first.tags["IJMetadata"].value, "<")
        header["descriptions"] = [_description(page) for page in (pages if _description(pages[-1]) else pages[:1])]
        header["compression"] = first.compression if first.compression in LOSSLESS else "zlib"
        header["photometric"] = first.photometric
    return header


def _check_whole(name, tiff):
    """Refuse a file that was cut off: its last page leads to one beyond the end, or it states more than there are."""
    layout, file, pages = tiff.tiff, tiff.filehandle, tiff.pages
    file.seek(pages[-1].offset)
    (tags,) = struct.unpack(layout.tagnoformat, file.read(layout.tagnosize))
    file.seek(pages[-1].offset + layout.tagnosize + tags * layout.tagsize)
    (following,) = struct.unpack(layout.offsetformat, file.read(layout.offsetsize))
    if following >= file.size:
        raise InputError(f"{name} is cut off after {len(pages)} pages: copy it again")
    stated = (tiff.imagej_metadata or {}).get("images", 1) if tiff.is_imagej else 1
    if tiff.is_shaped:
        stated = math.prod(tiff.shaped_metadata[0].get("shape", ())) // max(math.prod(pages[0].shape), 1)
    if stated > len(pages):
        raise InputError(
            f"{name} states {stated} images and has {len(pages)} pages: it is cut off, or of a layout that only the "
            "program that wrote it can read; save it as BigTIFF, a page an image"
        )


def _description(page) -> str:
    return page.tags["ImageDescription"].value if "ImageDescription" in page.tags else ""


def _kept(tag) -> tuple | None:
    """Of texts and private tags, what tifffile writes back."""
    if not (tag.name in TEXTS or tag.code >= PRIVATE) or tag.code in MADE or not tag.value:
        return None
    if isinstance(tag.value, str):
        return tag.code, "s", 0, tag.value, True
    plain = isinstance(tag.value, bytes | int | float | tuple)
    return (tag.code, int(tag.dtype), tag.count, tag.value, True) if plain else None


def _channels_last(page, planar):
    return as_frame(np.moveaxis(page, 0, -1) if planar else page)

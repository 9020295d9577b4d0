"""TIFF of 8 to 64 bits: every page is a frame."""

from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.data.formats import Frames, Source, as_frame, opened

# ImageJ and OME keep units in the description.
KEPT = ("XResolution", "YResolution", "ResolutionUnit", "ImageDescription", "DateTime", "InterColorProfile")
TEXTS = ("DocumentName", "Make", "Model", "Artist", "HostComputer", "Copyright")
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
            if tiff.is_imagej and (tiff.imagej_metadata or {}).get("images", 1) > len(pages):
                raise InputError(f"{name} is of more than 4 GB in a layout of ImageJ's own: save it as BigTIFF")
            if first.photometric == tifffile.PHOTOMETRIC.SEPARATED:
                raise InputError(f"{name} is CMYK, inks and not light: convert it to RGB or grey")
            if first.photometric == tifffile.PHOTOMETRIC.PALETTE:
                raise InputError(f"{name} has a palette: convert it to RGB or grey")
            if first.dtype is None or first.dtype.kind not in "uif":
                raise InputError(f"{name} holds {first.dtype}, not numbers of one kind")
            if 1 in first.extrasamples or 2 in first.extrasamples:
                raise InputError(f"{name} has transparency, which has no noise model: save it without")
            planar = first.axes == "SYX"
            places, frame = [page.offset for page in pages], _channels_last(first.asarray(), planar)
            header = {tag: first.tags[tag].value for tag in KEPT if tag in first.tags}
            header["texts"] = [
                (tag.code, "s", 0, tag.value, True) for tag in first.tags if tag.name in TEXTS and tag.value
            ]
            header["compression"] = first.compression if first.compression in LOSSLESS else "zlib"
            header["photometric"] = first.photometric
    except InputError:
        raise
    except Exception as error:  # what decodes damaged pages raises whatever it likes
        raise InputError(f"{name} is not a readable TIFF ({error})") from error

    def read(index: int) -> np.ndarray:
        try:
            with opened(source) as file, tifffile.TiffFile(file) as tiff:
                tiff.filehandle.seek(places[index])  # by its number, it would be looked for from the first page on
                return _channels_last(tifffile.TiffPage(tiff, index).asarray(), planar)
        except Exception as error:
            raise InputError(f"{name} is damaged at page {index} ({error})") from error

    return Frames(len(places), frame.shape, frame.dtype, read, header)


def _channels_last(page, planar):
    return as_frame(np.moveaxis(page, 0, -1) if planar else page)


def write_frames(path: Path, frames: np.ndarray, like: Frames, note: str) -> None:
    """A TIFF with one page a frame, of the same resolution, description and compression; the note is its software."""
    header = like.header or {}
    pages = frames[..., 0] if frames.shape[-1] == 1 else frames
    resolution = (header["XResolution"], header["YResolution"]) if "XResolution" in header else None
    channels = frames.shape[-1]
    tifffile.imwrite(
        path,
        pages,
        photometric=header.get("photometric", "rgb" if channels == 3 else "minisblack"),
        planarconfig="contig" if channels > 1 else None,
        extrasamples=(0,) * (channels - 1) if channels not in (1, 3) else None,
        description=header.get("ImageDescription", "").encode() or None,
        software=note,
        metadata=None,
        resolution=resolution,
        resolutionunit=header.get("ResolutionUnit") if resolution else None,
        compression=header.get("compression"),
        datetime=header.get("DateTime"),
        iccprofile=header.get("InterColorProfile"),
        extratags=header.get("texts", []),
    )

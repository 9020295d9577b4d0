"""PNG and JPEG, through Pillow."""

from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.data.formats import Frames, Source, as_frame, opened

FORMATS = ("PNG", "JPEG")
MODES = ("1", "L", "P", "RGB")  # and those of 16-bit grey; YCbCr and others come decoded as RGB
TRANSPARENT = ("LA", "PA", "RGBA", "La", "RGBa")
KEPT = ("dpi", "icc_profile", "exif")


def open_frames(name: str, source: Source) -> Frames:
    """The one frame of a picture; InputError if it cannot be decoded, has transparency or is CMYK."""
    frame, header = _decode(name, source)
    return Frames(1, frame.shape, frame.dtype, lambda _: frame, header)


def write_frames(path: Path | BinaryIO, frames: np.ndarray, like: Frames, note: str) -> None:
    """A PNG, whatever was read: JPEG would lose what denoising gained."""
    header, info = dict(like.header or {}), PngInfo()
    for key, text in header.pop("text", {}).items():
        info.add_itxt(key, text)
    info.add_itxt("Software", note)
    frame = frames[0, ..., 0] if frames.shape[-1] == 1 else frames[0]
    target = path.with_suffix(".png") if isinstance(path, Path) else path
    Image.fromarray(frame).save(target, "PNG", pnginfo=info, **header)


def _decode(name, source):
    """[H, W, C] of uint8, or of uint16 for 16-bit grey; and what to write back beside it."""
    try:
        with opened(source) as file, Image.open(file, formats=FORMATS) as image:
            if image.mode in TRANSPARENT or "transparency" in image.info:
                raise InputError(f"{name} has transparency, which has no noise model: save it without")
            if image.mode == "CMYK":
                raise InputError(f"{name} is CMYK, inks and not light: convert it to RGB or grey")
            if image.format == "PNG" and image.mode == "RGB" and _bits(source) == 16:
                raise InputError(f"{name} has 16 bits a colour, which would be read as 8: save it as TIFF")
            if image.format == "PNG" and getattr(image, "n_frames", 1) > 1:
                raise InputError(f"{name} is animated: save its frames apart")
            header = {key: image.info[key] for key in KEPT if key in image.info}
            header["text"] = dict(getattr(image, "text", {}))
            if image.mode.startswith("I;16"):
                return as_frame(np.asarray(image).astype(np.uint16)), header
            if image.mode not in MODES:
                raise InputError(f"{name} is of the mode {image.mode}: save it as grey or RGB")
            plain = image if image.mode in ("L", "RGB") else image.convert(_plain(image.mode))
            return as_frame(np.asarray(plain)), header
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{name} is not a readable picture ({error})") from error


def _bits(source):
    """Bits a channel, from the header of a PNG: Pillow does not tell."""
    with opened(source) as file:
        return file.read(25)[24]


def _plain(mode):
    """The mode a stored mode is expanded to: bilevel to grey, palette and others to colour."""
    return "L" if mode == "1" else "RGB"

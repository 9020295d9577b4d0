"""Files of named tensors, as networks are stored in: .safetensors, .npz and PyTorch's .pth.

Only PyTorch's are pickles, which its reader of weights alone takes apart
without running them, as far as is known of it.
"""

import re
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.data.formats.arrays import load_arrays

PYTORCH = (".pth", ".pt")
PICKLES = (".pkl", ".pickle")
SAFE = (2, 10)  # of PyTorch: before, `weights_only` could be made to run code (CVE-2025-32434, CVE-2026-24747)
SUFFIXES = (".safetensors", ".npz", *PYTORCH)


def read_tensors(path: str | Path) -> dict[str, np.ndarray]:
    """The tensors of a file by name, in the dtypes that they are stored in (bfloat16 as float32).

    Args:
        path: a .safetensors, an .npz, or a .pth or .pt that holds a dictionary of tensors. The last two need PyTorch
            2.10 or newer, which reads them with `weights_only=True`.

    Raises:
        InputError: if the file is missing, damaged, of another kind, or holds anything but tensors by name.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix in PICKLES:
        raise InputError(
            f"{path} is a pickle, which could run anything when it is read: convert it to .safetensors or .npz where "
            "you trust it"
        )
    if suffix not in SUFFIXES:
        raise InputError(f"{path} must end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")
    if not path.is_file():
        raise InputError(f"{path} does not exist" if not path.exists() else f"{path} is no file")
    if suffix == ".npz":
        return load_arrays(path)
    return _read_safetensors(path) if suffix == ".safetensors" else _read_pytorch(path)


def _read_safetensors(path):
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return {name: _plain(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError, MemoryError) as error:
        raise InputError(f"{path} is not a readable .safetensors ({_one_line(error)})") from error


def _plain(array):
    """NumPy alone can do nothing with bfloat16."""
    return array.astype(np.float32) if array.dtype.kind == "V" else array


def _read_pytorch(path):
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise InputError(f"{path} needs PyTorch: pip install torch, or convert it elsewhere: {_mend(path)}") from error
    _check_version(path, torch.__version__)
    try:
        _check_archive(path)
        found = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # whatever the damage leads to: PyTorch names no list
        raise InputError(f"{path} is not a readable PyTorch file of tensors alone ({_one_line(error)})") from error
    if not isinstance(found, Mapping) or not all(isinstance(name, str) for name in found):
        raise InputError(f"{path} holds a {type(found).__name__}, not tensors by name: save model.state_dict()")
    size = path.stat().st_size
    return {name: _array(path, name, value, size) for name, value in found.items()}


def _array(path, name, value, size):
    """InputError if it is no tensor, or one that states more numbers than the file of `size` bytes has room for."""
    import torch  # pyright: ignore[reportMissingImports]

    if not isinstance(value, torch.Tensor):
        raise InputError(f"{path}: `{name}` is a {type(value).__name__}, no tensor: save model.state_dict()")
    try:
        if value.numel() * value.element_size() > size:
            raise ValueError(f"it states {list(value.shape)}, which the file does not hold")
        value = value.detach()
        return (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    except (TypeError, ValueError, RuntimeError, NotImplementedError) as error:
        raise InputError(f"{path}: `{name}` cannot be read ({_one_line(error)})") from error


def _check_version(path, version):
    """InputError for a PyTorch whose `weights_only` is known to be unsafe."""
    numbers = re.match(r"(\d+)\.(\d+)", str(version))
    if numbers is None or tuple(map(int, numbers.groups())) < SAFE:
        newest = ".".join(map(str, SAFE))
        raise InputError(
            f"{path} is not safe to read with PyTorch {version}, which such a file could make run anything: "
            f"pip install -U 'torch>={newest}', or convert it to .safetensors or .npz where you trust it"
        )


def _check_archive(path):
    """ValueError for a compressed archive, which PyTorch does not write: it could unpack to any size; and for a tar,
    as it wrote before 0.1.10.
    """
    if not zipfile.is_zipfile(path):  # as PyTorch wrote before 1.6
        if tarfile.is_tarfile(path):
            raise ValueError("it is a tar, of a PyTorch before 0.1.10: save it again with a newer one")
        return
    with zipfile.ZipFile(path) as archive:
        if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
            raise ValueError("its archive is compressed")


def _mend(path):
    """One line that makes an .npz of a .pth."""
    code = (
        "import numpy, torch; numpy.savez('{npz}', **{{k: v.numpy() for k, v in "
        "torch.load('{pth}', weights_only=True, map_location='cpu').items()}})"
    )
    return f'python -c "{code.format(npz=path.with_suffix(".npz").name, pth=path.name)}"'


def _one_line(error):
    """The first line: PyTorch adds advice that is of no use here."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__

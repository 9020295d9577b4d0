"""Models of the Hugging Face Hub, as hub:USER/NAME or hub:USER/NAME@REVISION."""

import re
from pathlib import Path

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.training.exported import FILES

PREFIX = "hub:"


def local(source) -> Path:
    """The folder of a model: a path as it is; of the Hub, where it was downloaded to.

    Without a network that is what the cache of an earlier download holds.

    Raises:
        FileNotFoundError: if it is not on the Hub, or can be neither downloaded nor found in the cache.
        InputError: if huggingface_hub is not installed, or it is no name of a model.
    """
    if not is_of_hub(source):
        return Path(source).expanduser()
    name, revision = name_of(source)
    hub = library()
    try:
        return Path(hub.snapshot_download(name, revision=revision, allow_patterns=list(FILES)))
    except (hub.errors.RepositoryNotFoundError, hub.errors.RevisionNotFoundError) as error:
        raise FileNotFoundError(f"{source} is not on the Hub, or not to be seen without logging in") from error
    except Exception as error:  # its HTTP library, and with it the errors, changes with its version
        raise FileNotFoundError(
            f"{source} can be neither downloaded nor found in the cache ({reason(error)}): see to the network"
        ) from error


def is_of_hub(source) -> bool:
    """Whether a model is named by its place on the Hub."""
    return str(source).startswith(PREFIX)


def name_of(source) -> tuple[str, str | None]:
    """USER/NAME, and the revision if one is named.

    Raises:
        InputError: if it is not that.
    """
    named = re.fullmatch(PREFIX + r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", str(source))
    if not named:
        raise InputError(f"{source} names no model of the Hub: write hub:USER/NAME, or hub:USER/NAME@REVISION")
    return named[1], named[2]


def library():
    """huggingface_hub, which is an extra.

    Raises:
        InputError: if it is not installed.
    """
    try:
        import huggingface_hub
    except ImportError as error:
        raise InputError("models of the Hub need huggingface_hub: pip install 'tweedie-diffusion[hub]'") from error
    return huggingface_hub


def reason(error: Exception) -> str:
    """The first line of an error."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__

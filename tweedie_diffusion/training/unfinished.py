"""What unfinished work is of: a request beside what is done of it, so that only the same command goes on there."""

import json
from pathlib import Path

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.training.durable import replace_text


def check_request(path: Path, request: dict, mend: str) -> bool:
    """Whether a file holds this request; False if there is no such file.

    Args:
        path: of `write_request`.
        request: all that decides the results, of what JSON holds.
        mend: what can be done if it is another.

    Raises:
        InputError: if it is another, naming its folder and what differs.
    """
    try:
        kept = json.loads(path.read_text())
    except FileNotFoundError:
        return False
    except ValueError as error:
        raise InputError(f"{path} cannot be read ({error}): {mend}") from error
    if kept != request:
        known = kept if isinstance(kept, dict) else {}
        other = sorted(name for name in known | request if known.get(name) != request.get(name))
        raise InputError(f"{path.parent} is of another request ({', '.join(other)} differ): {mend}")
    return True


def write_request(path: Path, request: dict) -> None:
    """What `check_request` reads. The folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, json.dumps(request, indent=1) + "\n")

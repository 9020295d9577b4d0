"""Take a model elsewhere: python -m tweedie_diffusion.export --workdir=runs/digits --to=exported/digits."""

import tempfile
from pathlib import Path

from absl import flags

from tweedie_diffusion import program

_WORKDIR = flags.DEFINE_string("workdir", None, "A trained run.")
_TO = flags.DEFINE_string("to", None, "A folder, or hub:USER/NAME, which is made private if it does not exist.")
_BEST = flags.DEFINE_bool("best", False, "The checkpoint that held-out noisy images liked best, not the newest.")
_LICENCE = flags.DEFINE_string("licence", "", "For the model card, as cc-by-4.0. Default: none is stated.")


def main(arguments: list[str]) -> None:
    """Write the folder, or upload it, and say how it is loaded."""
    from tweedie_diffusion.data.errors import InputError
    from tweedie_diffusion.sharing.export import export
    from tweedie_diffusion.sharing.hub import check_name, push
    from tweedie_diffusion.training.hub import is_of_hub

    if arguments:
        raise InputError(f"unexpected argument {arguments[0]!r}: flags are listed by --help")
    if not _WORKDIR.value:
        raise InputError("--workdir is missing: name a trained run, e.g. --workdir=runs/digits")
    if not _TO.value:
        raise InputError("--to is missing: name a folder, e.g. --to=exported/digits, or hub:USER/NAME")
    options = {"best": _BEST.value, "licence": _LICENCE.value}
    if not is_of_hub(_TO.value):
        export(_WORKDIR.value, Path(_TO.value).expanduser(), **options)
        print(f"exported: tweedie_diffusion.load({_TO.value!r})")
        return
    check_name(_TO.value)  # before any work is done
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        export(_WORKDIR.value, folder, **options, name=_TO.value)
        print(f"uploaded: tweedie_diffusion.load({push(folder, _TO.value)!r})")


if __name__ == "__main__":
    program.run(main)

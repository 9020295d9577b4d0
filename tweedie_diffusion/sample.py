"""Draw clean images: python -m tweedie_diffusion.sample --workdir=runs/digits --num=64 --out=samples.png."""

from pathlib import Path

from absl import flags

from tweedie_diffusion import program
from tweedie_diffusion.diffusion.reverse_steps import REVERSE_STEPS

_WORKDIR = flags.DEFINE_string("workdir", None, "A trained run.")
_NUM = flags.DEFINE_integer("num", 64, "How many images.")
_OUT = flags.DEFINE_string("out", "samples.png", "A .png (one picture of all) or an .npz (array `images`).")
_SEED = flags.DEFINE_integer(
    "seed", 0, "Sample i depends on the seed and i alone.", lower_bound=0, upper_bound=2**31 - 1
)
_MODE = flags.DEFINE_enum(
    "mode", "full", ["full", "truncated"], "Down to no noise; or to the noise of the data, then one denoising."
)
_STEPS = flags.DEFINE_integer("steps", 0, "Levels of the grid; 0 takes sampling.num_steps of the run.")
_STEP = flags.DEFINE_enum("step", None, list(REVERSE_STEPS), "Reverse step; default: that of the run.")
_LABEL = flags.DEFINE_integer("label", -1, "Class, for class-conditional models; −1 for all in turn.")


def main(arguments: list[str]) -> None:
    """Sample and write; the same command goes on where it stopped."""
    from tweedie_diffusion.training.stopping import StopRequests

    with StopRequests(program.leave) as stops:
        with stops.nothing_to_lose("stopped before sampling"):
            out, model, request = _checked(arguments)
            from tweedie_diffusion.data.whole import whole
            from tweedie_diffusion.training.parts import folder_of, remove_parts, sample_in_parts

            folder = folder_of(out)
            parts = sample_in_parts(model, request, folder, stops.nothing_to_lose)
        kept = f": what was drawn is kept in {folder}" if request.count > 1 else ""
        with stops.nothing_to_lose(f"stopped while writing {out}{kept}"), whole(out) as (unfinished,):
            _write(unfinished, model, parts, request.num)
        remove_parts(folder)  # nothing stops this: half of it would be drawn again
    print(f"{request.num} images in {out}")


def _checked(arguments):
    """Where to write, the model, and what to draw of it."""
    from tweedie_diffusion.data.errors import InputError
    from tweedie_diffusion.data.files import check_output
    from tweedie_diffusion.training.parts import request_of
    from tweedie_diffusion.training.trained import load_run

    if arguments:
        raise InputError(f"unexpected argument {arguments[0]!r}: flags are listed by --help")
    if not _WORKDIR.value:
        raise InputError("--workdir is missing: name a trained run, e.g. --workdir=runs/digits")
    if _NUM.value < 1:
        raise InputError(f"--num must be at least 1 (got {_NUM.value})")
    if _STEPS.value and _STEPS.value < 2:
        raise InputError(f"--steps must be at least 2 (got {_STEPS.value})")
    out = check_output(Path(_OUT.value).expanduser(), (".png", ".npz"))
    model = load_run(_WORKDIR.value)
    if _LABEL.value >= 0 and not (model.config.model.class_conditional and _LABEL.value < model.facts.num_classes):
        raise InputError(f"--label={_LABEL.value}: the model of {_WORKDIR.value} has no such class")
    request = request_of(
        model,
        _NUM.value,
        seed=_SEED.value,
        truncated=_MODE.value == "truncated",
        num_steps=_STEPS.value,
        step=_STEP.value or "",
        label=_LABEL.value,
    )
    return out, model, request


def _write(path, model, parts, count):
    """An .npz part by part, in the units of the data; a picture holds them all."""
    import numpy as np

    from tweedie_diffusion.data.formats.arrays import write_stacked
    from tweedie_diffusion.evaluation.figures import save_figure
    from tweedie_diffusion.evaluation.pictures import samples_picture

    if path.suffix.lower() == ".npz":
        write_stacked(path, "images", map(model.facts.scaling.from_unit, parts), count)
    else:
        save_figure(path, samples_picture(np.concatenate(list(parts))))


if __name__ == "__main__":
    program.run(main)

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
    """Sample and write."""
    from tweedie_diffusion.data.errors import InputError
    from tweedie_diffusion.data.files import check_output
    from tweedie_diffusion.data.formats.arrays import write_arrays
    from tweedie_diffusion.evaluation.pictures import save_examples
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
    x_0 = model.sample(
        range(_NUM.value),
        seed=_SEED.value,
        truncated=_MODE.value == "truncated",
        num_steps=_STEPS.value,
        step=_STEP.value or "",
        label=_LABEL.value,
    )
    if out.suffix == ".npz":
        write_arrays(out, {"images": model.facts.scaling.from_unit(x_0)})
    else:
        save_examples(out, x_0)
    print(f"{len(x_0)} images in {out}")


if __name__ == "__main__":
    program.run(main)

"""Draw clean images: python -m tweedie_diffusion.sample --workdir=runs/digits --num=64 --out=samples.png."""

from absl import flags

from tweedie_diffusion import program
from tweedie_diffusion.diffusion.reverse_steps import REVERSE_STEPS

_WORKDIR = flags.DEFINE_string("workdir", None, "A trained run.")
_NUM = flags.DEFINE_integer("num", 64, "How many images.")
_OUT = flags.DEFINE_string(
    "out",
    "samples.png",
    "A .png (one picture of all), an .npz or .npy (array `images`), a folder/ of images, a .tar of them, or several: "
    "samples-%05d.tar.",
)
_SHARD_SIZE = flags.DEFINE_integer("shard_size", 0, "Images of each of several .tar; 0 takes 10 000.")
_SEED = flags.DEFINE_integer(
    "seed", 0, "Sample i depends on the seed and i alone.", lower_bound=0, upper_bound=2**31 - 1
)
_MODE = flags.DEFINE_enum(
    "mode", "full", ["full", "truncated"], "Down to no noise; or to the noise of the data, then one denoising."
)
_STEPS = flags.DEFINE_integer("steps", 0, "Levels of the grid; 0 takes sampling.num_steps of the run.")
_SIGMA_MIN = flags.DEFINE_float("sigma_min", 0.0, "Last level of the grid; 0 takes that of the run.")
_SIGMA_MAX = flags.DEFINE_float("sigma_max", 0.0, "First level; 0 takes that of the run.")
_RHO = flags.DEFINE_float("rho", 0.0, "How the levels crowd at low noise; 0 takes that of the run.")
_SIGMAS = flags.DEFINE_list("sigmas", [], "All levels instead, going down: 80,20,5,1,0.2.")
_STEP = flags.DEFINE_enum("step", None, list(REVERSE_STEPS), "Reverse step; default: that of the run.")
_LABEL = flags.DEFINE_integer("label", -1, "Class, for class-conditional models; −1 for all in turn.")
_GUIDANCE = flags.DEFINE_float("guidance", 1.0, "Weight of the class: 1 the conditional model, 0 none, above 1 more.")
_INTERVAL = flags.DEFINE_list("guidance_interval", [], "LOW,HIGH: levels between which it acts. Default: all.")


def main(arguments: list[str]) -> None:
    """Sample and write; the same command goes on where it stopped."""
    from tweedie_diffusion.training.stopping import StopRequests

    with StopRequests(program.leave) as stops:
        with stops.nothing_to_lose("stopped before sampling"):
            out, model, request = _checked(arguments)
            from tweedie_diffusion.training.outputs import write_samples
            from tweedie_diffusion.training.parts import folder_of, remove_parts, sample_in_parts

            folder = folder_of(out.path)
            parts = sample_in_parts(model, request, folder, stops.nothing_to_lose)
        kept = f": what was drawn is kept in {folder}" if request.count > 1 else ""
        with stops.nothing_to_lose(f"stopped while writing {out.path}{kept}"):
            write_samples(out, model, parts, request)
        remove_parts(folder)  # nothing stops this: half of it would be drawn again
    print(f"{request.num} images in {out.path}")


def _checked(arguments):
    """Where to write, the model, and what to draw of it."""
    from tweedie_diffusion.data.errors import InputError
    from tweedie_diffusion.training.outputs import check_kind, output_of
    from tweedie_diffusion.training.parts import request_of
    from tweedie_diffusion.training.trained import load_run

    if arguments:
        raise InputError(f"unexpected argument {arguments[0]!r}: flags are listed by --help")
    if not _WORKDIR.value:
        raise InputError("--workdir is missing: name a trained run, e.g. --workdir=runs/digits")
    if _NUM.value < 1:
        raise InputError(f"--num must be at least 1 (got {_NUM.value})")
    settings = _settings()
    out = output_of(_OUT.value, _NUM.value, _SHARD_SIZE.value)
    model = load_run(_WORKDIR.value)
    check_kind(out, model)
    return out, model, request_of(model, _NUM.value, **settings)


def _settings():
    """Keywords of `TrainedModel.sample`; those that are not given are left out, so that they name no other request."""
    given = {
        "sigma_min": _SIGMA_MIN.value,
        "sigma_max": _SIGMA_MAX.value,
        "rho": _RHO.value,
        "sigmas": _numbers("sigmas", _SIGMAS.value),
        "guidance_interval": _numbers("guidance_interval", _INTERVAL.value, count=2),
    }
    return {
        "seed": _SEED.value,
        "truncated": _MODE.value == "truncated",
        "num_steps": _STEPS.value,
        "step": _STEP.value or "",
        "label": _LABEL.value,
        **{name: value for name, value in given.items() if value},
        **({"guidance": _GUIDANCE.value} if _GUIDANCE.value != 1 else {}),
    }


def _numbers(name, texts, count=0):
    """A list of numbers in a flag."""
    from tweedie_diffusion.data.errors import InputError

    try:
        numbers = [float(text) for text in texts]
    except ValueError:
        numbers = None
    if numbers is None or (count and len(numbers) not in (0, count)):
        raise InputError(f"--{name} must be {count or 'some'} numbers with commas between (got {','.join(texts)})")
    return numbers


if __name__ == "__main__":
    program.run(main)

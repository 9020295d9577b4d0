"""Denoise images: python -m tweedie_diffusion.denoise --workdir=runs/digits IN OUT."""

from pathlib import Path

from absl import flags

from tweedie_diffusion import program

_WORKDIR = flags.DEFINE_string("workdir", None, "A trained run.")
_SIGMA = flags.DEFINE_float(
    "sigma", None, "Noise of the images, a standard deviation. Default: `sigma_tn` of the .npz, or that of training."
)
_SIGMA_UNITS = flags.DEFINE_enum("sigma_units", "scaled", ["scaled", "data"], "Images in [-1, 1], or stored values.")
_SIGMA_FROM = flags.DEFINE_string("sigma_from", "", "Instead: auto estimates each file's; TABLE.csv has file,sigma.")
_NUM_SAMPLES = flags.DEFINE_integer("num_samples", 0, "Posterior samples an image, beside the posterior mean.")
_SEED = flags.DEFINE_integer("seed", 0, "Of the posterior samples.", lower_bound=0, upper_bound=2**31 - 1)


def main(arguments: list[str]) -> None:
    """Denoise IN to OUT; the same command goes on at the files that are missing."""
    from tweedie_diffusion.training.stopping import StopRequests

    with (
        StopRequests(program.leave) as stops,
        stops.nothing_to_lose("stopped while denoising: files that were written are whole, and in a folder stay"),
    ):
        out, levels = _denoise(arguments)
    low, high = f"{levels.min():g}", f"{levels.max():g}"
    print(f"{len(levels)} images at σ = {low if low == high else f'{low} to {high}'} denoised to {out}")


def _denoise(arguments):
    """Check the command, denoise, and give OUT and the levels of the images."""
    from tweedie_diffusion.data.errors import InputError
    from tweedie_diffusion.training.denoise_files import GivenNoise, denoise_files
    from tweedie_diffusion.training.trained import load_run

    if len(arguments) != 2:
        raise InputError(
            "name what to denoise and where to write: python -m tweedie_diffusion.denoise --workdir=DIR IN OUT"
        )
    if not _WORKDIR.value:
        raise InputError("--workdir is missing: name a trained run, e.g. --workdir=runs/digits")
    if _NUM_SAMPLES.value < 0:
        raise InputError(f"--num_samples must be at least 0 (got {_NUM_SAMPLES.value})")
    if _SIGMA.value is not None and _SIGMA_FROM.value:
        raise InputError("--sigma and --sigma_from both say what the noise is: leave one of them out")
    source, out = arguments[0], Path(arguments[1]).expanduser()
    noise = GivenNoise(_SIGMA.value, _SIGMA_UNITS.value, _SIGMA_FROM.value)
    model = load_run(_WORKDIR.value)
    return out, denoise_files(model, source, out, noise=noise, num_samples=_NUM_SAMPLES.value, seed=_SEED.value)


if __name__ == "__main__":
    program.run(main)

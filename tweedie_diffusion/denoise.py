"""Denoise images: python -m tweedie_diffusion.denoise --workdir=runs/digits IN OUT."""

from pathlib import Path

from absl import flags

from tweedie_diffusion import program

_WORKDIR = flags.DEFINE_string("workdir", None, "A trained run.")
_SIGMA = flags.DEFINE_float(
    "sigma",
    None,
    "Noise of the images, as a standard deviation in units of [-1, 1]. Default: `sigma_tn` of the .npz, "
    "or the noise of the training images.",
)
_NUM_SAMPLES = flags.DEFINE_integer("num_samples", 0, "Posterior samples an image, beside the posterior mean.")
_SEED = flags.DEFINE_integer("seed", 0, "Of the posterior samples.", lower_bound=0, upper_bound=2**31 - 1)


def main(arguments: list[str]) -> None:
    """Denoise IN to OUT."""
    from tweedie_diffusion.data.errors import InputError
    from tweedie_diffusion.training.denoise_files import denoise_files
    from tweedie_diffusion.training.trained import load_run

    if len(arguments) != 2:
        raise InputError(
            "name what to denoise and where to write: python -m tweedie_diffusion.denoise --workdir=DIR IN OUT"
        )
    if not _WORKDIR.value:
        raise InputError("--workdir is missing: name a trained run, e.g. --workdir=runs/digits")
    if _NUM_SAMPLES.value < 0:
        raise InputError(f"--num_samples must be at least 0 (got {_NUM_SAMPLES.value})")
    source, out = (Path(a).expanduser() for a in arguments)
    model = load_run(_WORKDIR.value)
    levels = denoise_files(model, source, out, sigma=_SIGMA.value, num_samples=_NUM_SAMPLES.value, seed=_SEED.value)
    low, high = f"{levels.min():g}", f"{levels.max():g}"
    print(f"{len(levels)} images at σ = {low if low == high else f'{low} to {high}'} denoised to {out}")


if __name__ == "__main__":
    program.run(main)

"""Measure a trained run: python -m tweedie_diffusion.evaluate --workdir=runs/digits."""

from pathlib import Path

from absl import flags

from tweedie_diffusion import program

_WORKDIR = flags.DEFINE_string("workdir", None, "A trained run, or an exported model.")
_OUT = flags.DEFINE_string("out", None, "Folder for report.html and evaluation.json. Default: that of the run.")
_NUM = flags.DEFINE_integer("num", 1000, "Samples to compare with real images.")
_FEATURES = flags.DEFINE_string(
    "features", "pca", "What images are compared by: pixels, pca:NUMBER, classifier:FILE, inception:FILE, dinov2:FILE."
)
_REFERENCE = flags.DEFINE_string("reference", "", "Clean images to compare with. Default: those held out.")
_FRAMES = flags.DEFINE_string("frames", "", "An .npz of noisy frames `first` and `second` of the same scenes.")
_CLEAN_TRAINED = flags.DEFINE_string(
    "clean_trained", "", "A run on clean images, whose denoising curve is shown beside."
)
_DRAWS = flags.DEFINE_integer("draws", 16, "Posterior samples of each noisy image, for calibration.")
_SEED = flags.DEFINE_integer("seed", 0, "Of everything that is drawn.", lower_bound=0, upper_bound=2**31 - 1)


def main(arguments: list[str]) -> None:
    """Evaluate, print, and write; samples that were drawn before an interruption are not drawn again."""
    from tweedie_diffusion.training.stopping import StopRequests

    with StopRequests(program.leave) as stops:
        with stops.nothing_to_lose("stopped before anything was measured"):
            asked = _checked(arguments)
            from tweedie_diffusion.report.evaluation import evaluate, open_evaluation, write_numbers, write_page
            from tweedie_diffusion.report.page import report_page
            from tweedie_diffusion.report.words import in_words

            opened = open_evaluation(asked)
        with stops.nothing_to_lose("stopped while measuring: samples that were drawn are kept"):
            found = evaluate(asked, opened, safe=stops.nothing_to_lose)
            print(in_words(found.numbers), flush=True)
            print(f"\nNumbers: {write_numbers(asked, found.numbers)}", flush=True)
            page = report_page(found, Path(asked.workdir).expanduser() / "metrics.jsonl")
            print(f"Look at {write_page(asked, page)}")


def _checked(arguments):
    """What is asked for."""
    from tweedie_diffusion.data.errors import InputError
    from tweedie_diffusion.evaluation.fidelity import NEIGHBOURS
    from tweedie_diffusion.report.evaluation import Asked
    from tweedie_diffusion.training.hub import is_of_hub

    if arguments:
        raise InputError(f"unexpected argument {arguments[0]!r}: flags are listed by --help")
    if not _WORKDIR.value:
        raise InputError("--workdir is missing: name a trained run, e.g. --workdir=runs/digits")
    for name, value, least in (("num", _NUM.value, NEIGHBOURS + 1), ("draws", _DRAWS.value, 2)):
        if value < least:
            raise InputError(f"--{name} must be at least {least} (got {value})")
    if is_of_hub(_WORKDIR.value) and not _OUT.value:
        raise InputError(f"--out is missing: say where the report of {_WORKDIR.value} may be written")
    return Asked(
        workdir=_WORKDIR.value,
        out=Path(_OUT.value or _WORKDIR.value).expanduser(),
        num=_NUM.value,
        features=_FEATURES.value,
        reference=_REFERENCE.value,
        frames=_FRAMES.value,
        clean_trained=_CLEAN_TRAINED.value,
        draws=_DRAWS.value,
        seed=_SEED.value,
    )


if __name__ == "__main__":
    program.run(main)

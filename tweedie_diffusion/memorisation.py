"""What runs have learned by heart: python -m tweedie_diffusion.memorisation --workdir=runs/clean,runs/noisy."""

from pathlib import Path

from absl import flags

from tweedie_diffusion import program

_WORKDIR = flags.DEFINE_list("workdir", None, "Trained runs, side by side; of the same images, with and without noise.")
_OUT = flags.DEFINE_list(
    "out", ["memorisation.html"], "One or several: a page (.html), the picture alone (.png), all numbers (.json)."
)
_NUM = flags.DEFINE_integer("num", 512, "Samples of each run.", lower_bound=1)
_ATTACKED = flags.DEFINE_integer("attacked", 128, "Training images attacked, and held-out ones.", lower_bound=2)
_SIGMAS = flags.DEFINE_list("sigmas", ["0.5", "1", "2", "4", "8"], "Noise levels of the attack from noise.")
_MASK_SIGMAS = flags.DEFINE_list("mask_sigmas", ["0", "0.5", "1"], "Noise of what the attack with a mask leaves.")
_HIDDEN = flags.DEFINE_float("hidden", 0.5, "Share of the image that the mask hides.", lower_bound=0, upper_bound=1)
_FEATURES = flags.DEFINE_string(
    "features", "", "What images are compared by: those of evaluate. Default: pixels, less their mean in training."
)
_SEED = flags.DEFINE_integer(
    "seed", 0, "Sample i depends on the seed and i alone.", lower_bound=0, upper_bound=2**31 - 1
)


def main(arguments: list[str]) -> None:
    """Sample, compare, attack, and print the table; the same command goes on at the samples that are missing."""
    from tweedie_diffusion.training.stopping import StopRequests

    with StopRequests(program.leave) as stops:
        with stops.nothing_to_lose("stopped before sampling"):
            outs, plan, runs, reference = _checked(arguments)
            from tqdm import tqdm

            from tweedie_diffusion.data.whole import whole
            from tweedie_diffusion.report.memorisation import measure
            from tweedie_diffusion.report.memorisation_page import in_markdown, in_words, table_of, write_found
            from tweedie_diffusion.training.parts import folder_of, remove_parts

        folders = [folder_of(outs[0].with_name(f"{outs[0].name}.{k}")) for k in range(len(runs))]
        with stops.nothing_to_lose("stopped while comparing: full parts of samples are kept beside --out"):
            samples = [_samples(run, folder, stops.nothing_to_lose) for run, folder in zip(runs, folders, strict=True)]
            progress = lambda cells: tqdm(cells, desc="attacks", leave=False)
            found = measure(runs, reference, samples, plan, progress)
            with whole(*outs) as unfinished:
                for path in unfinished:
                    write_found(path, found)
        for folder in folders:
            remove_parts(folder)
    print(f"{in_markdown(table_of(found))}\n\n{in_words(found)}\n\nLook at {outs[0]}")


def _checked(arguments):
    """Where to write, what to do, the runs, and the images they are compared with."""
    from tweedie_diffusion.data.errors import InputError
    from tweedie_diffusion.data.files import check_output
    from tweedie_diffusion.evaluation.features import open_features
    from tweedie_diffusion.report.memorisation import Plan, Reference, check_hidden
    from tweedie_diffusion.report.originals import open_runs, originals_of

    if arguments:
        raise InputError(f"unexpected argument {arguments[0]!r}: flags are listed by --help")
    if not _WORKDIR.value:
        raise InputError("--workdir is missing: name trained runs, e.g. --workdir=runs/clean,runs/noisy")
    if not 0 < _HIDDEN.value < 1:
        raise InputError(f"--hidden must lie between 0 and 1, both excluded (got {_HIDDEN.value:g})")
    plan = Plan(
        attacked=_ATTACKED.value,
        sigmas=_levels("sigmas", _SIGMAS.value, "> 0", lambda sigma: sigma > 0),
        mask_sigmas=_levels("mask_sigmas", _MASK_SIGMAS.value, ">= 0", lambda sigma: sigma >= 0),
        hidden=_HIDDEN.value,
        seed=_SEED.value,
    )
    outs = [check_output(Path(out).expanduser(), (".html", ".png", ".json")) for out in _OUT.value]
    runs = open_runs(_WORKDIR.value)
    check_hidden(runs, plan)
    originals = originals_of(runs)
    features = open_features(_FEATURES.value, reference=originals.train.x_0) if _FEATURES.value else None
    return outs, plan, runs, Reference(originals, features)


def _levels(name, texts, words, allowed):
    """The noise levels of a flag."""
    from tweedie_diffusion.data.errors import InputError

    try:
        levels = tuple(float(text) for text in texts)
    except ValueError as error:
        raise InputError(f"--{name}: {error}") from error
    if not levels or not all(map(allowed, levels)):
        raise InputError(f"--{name} must be noise levels {words} (got {','.join(texts)})")
    return levels


def _samples(run, folder, safe):
    """The samples of a run, each full part of which is kept in `folder`."""
    import numpy as np

    from tweedie_diffusion.training.parts import request_of, sample_in_parts

    request = request_of(run.model, _NUM.value, seed=_SEED.value, truncated=False, num_steps=0, step="", label=-1)
    return np.concatenate(list(sample_in_parts(run.model, request, folder, safe)))


if __name__ == "__main__":
    program.run(main)

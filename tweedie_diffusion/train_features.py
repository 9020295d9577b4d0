"""Features to compare images by: python -m tweedie_diffusion.train_features --workdir=runs/digits."""

import shlex
from pathlib import Path

from absl import flags

from tweedie_diffusion import program

_WORKDIR = flags.DEFINE_string("workdir", None, "The run whose data it is trained on, held-out images apart.")
_OUT = flags.DEFINE_string("out", "features.safetensors", "Where it is written.")
_SEED = flags.DEFINE_integer("seed", 0, "Of its weights and batches.", lower_bound=0, upper_bound=2**31 - 1)
_STEPS = flags.DEFINE_integer("steps", 0, "Of training; 0 for the usual number.", lower_bound=0)


def main(arguments: list[str]) -> None:
    """Train, write, and say how good it is."""
    from tweedie_diffusion.data.errors import InputError
    from tweedie_diffusion.data.files import check_output
    from tweedie_diffusion.evaluation.classifier_features import write_classifier
    from tweedie_diffusion.training.feature_classifier import STEPS, open_run_data, train_classifier
    from tweedie_diffusion.training.stopping import StopRequests

    if arguments:
        raise InputError(f"unexpected argument {arguments[0]!r}: flags are listed by --help")
    if not _WORKDIR.value:
        raise InputError("--workdir is missing: name a run, e.g. --workdir=runs/digits")
    out = check_output(Path(_OUT.value).expanduser(), (".safetensors",))
    with StopRequests(program.leave) as stops:
        with stops.nothing_to_lose("stopped while training the classifier: nothing is written yet"):
            dataset = open_run_data(Path(_WORKDIR.value).expanduser())
            params, about = train_classifier(dataset, seed=_SEED.value, steps=_STEPS.value or STEPS)
        write_classifier(out, params, about)
    print(_summary(_WORKDIR.value, out, about))


def _summary(workdir, out, about):
    task = f"{about['num_classes']} classes" if about["task"] == "labels" else "quarter turns"
    flags_of_next = f"--workdir={shlex.quote(workdir)} --features=classifier:{shlex.quote(str(out))}"
    return (
        f"held-out accuracy {about['held_out_accuracy']:.3f} ({task}), "
        f"after {about['num_train']} {about['images']} training images\n{about['size']} features in {out}\n\n"
        f"Next:\n  # compare samples by them\n  python -m tweedie_diffusion.evaluate {flags_of_next}"
    )


if __name__ == "__main__":
    program.run(main)

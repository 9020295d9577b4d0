"""What is learned by heart of few images: digits, seen clean beside digits seen only through noise.

    python -m experiments.memorisation

One network and budget on the same 200 of the 8×8 digits, clean and through σ = 0.5; the others are held out. Of the
noisy run, the model of its last step stands beside the one that is used: an earlier one, which held-out noisy images
choose. So few images, and so many steps, that clean training learns them by heart within minutes. The same command goes
on where it stopped; the table goes to experiments/README.md, all numbers and the picture to results/.
"""

import subprocess
import sys
from pathlib import Path

from absl import flags

from configs import digits_noisy
from experiments.report import provenance, replace_section
from tweedie_diffusion import program
from tweedie_diffusion.training.config import Config
from tweedie_diffusion.training.loop import train

_WORKDIR = flags.DEFINE_string("workdir", "runs/memorisation", "Where the runs live.")
_DOCS = flags.DEFINE_string("docs", "experiments", "Where README.md and results/ are.")
_STEPS = flags.DEFINE_integer("steps", 1500, "Training steps of each run.")
_TRAINED = flags.DEFINE_integer("trained", 200, "Images trained on.")
_SEED = flags.DEFINE_integer("seed", 0, "Of weights, noise, split, training and samples.")
DIGITS = 1797
SIGMA_TN = {"clean": 0.0, "noisy": 0.5, "noisy_last": 0.5}
SAVE_EVERY = 150  # of "noisy": its model is the one that held-out noisy images like best; the others are the last


def config_of(name: str) -> Config:
    """The settings of a run."""
    config = digits_noisy.get_config()
    config.seed = config.data.noise_seed = config.data.split_seed = _SEED.value
    config.data.held_out = 1 - _TRAINED.value / DIGITS
    config.data.sigma_tn = SIGMA_TN[name]
    config.training.steps = _STEPS.value
    config.training.save_every = SAVE_EVERY if name == "noisy" else _STEPS.value
    config.consistency.start = _STEPS.value // 2
    config.consistency.batch_fraction = 0.125  # as measured
    if not config.data.sigma_tn:
        config.consistency.weight = 0.0
    return config


def main(arguments: list[str]) -> None:
    """Train, compare, and write the section of the README."""
    folder, results = Path(_WORKDIR.value), Path(_DOCS.value) / "results"
    for name in SIGMA_TN:
        print(f"training {name}", flush=True)
        train(config_of(name), folder / name)
    workdirs = ",".join(str(folder / name) for name in SIGMA_TN)
    outs = [results / f"memorisation.{suffix}" for suffix in ("png", "json")]
    command = [sys.executable, "-m", "tweedie_diffusion.memorisation", f"--workdir={workdirs}", f"--seed={_SEED.value}"]
    command += [f"--out={','.join(map(str, outs))}"]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    table = printed.partition("\n\nLook at")[0]
    shown = [a for a in sys.argv[1:] if not a.startswith(("--docs", "--workdir"))]  # paths are this machine's
    about = {"command": " ".join(["python -m experiments.memorisation", *shown]), **provenance(), "seed": _SEED.value}
    made = "\n".join(f"* {key}: {value}" for key, value in about.items())
    text = f"{made}\n\n{table}\n\n![closest pairs, similarities, attacks](results/memorisation.png)"
    replace_section(Path(_DOCS.value) / "README.md", "memorisation", text)
    print(text)


if __name__ == "__main__":
    program.run(main)

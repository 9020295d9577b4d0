"""Training with something done to it from inside: python -m experiments.faults.driven WHAT <flags of main>.

WHAT is a JSON object:
    poison       {"nan" or a factor: [steps whose batch is multiplied by it]}
    threads      that make batches
    cache        bytes of images kept in memory
    sample_every steps between lines in WORKDIR/../samples.jsonl: memory, descriptors, threads, what is in the workdir
    config       a config.json to take the settings from, instead of those of --config
"""

import contextlib
import functools
import json
import math
import os
import sys
import time
from pathlib import Path

from tweedie_diffusion import main, program
from tweedie_diffusion.data import noisy
from tweedie_diffusion.training import loop
from tweedie_diffusion.training.config import from_json


def drive(what: dict) -> None:
    """Put what is to be done into the training loop, and run the program."""
    noisy.CACHE_BYTES = what.get("cache", noisy.CACHE_BYTES)
    make, train = loop.batches, loop.train
    factors = {step: math.nan if factor == "nan" else float(factor) for factor, steps in what["poison"].items()
               for step in steps} if "poison" in what else {}  # fmt: skip

    @functools.wraps(make)
    def batches(*arguments, start=0, **settings):
        settings |= {"threads": what["threads"]} if "threads" in what else {}
        for step, batch in enumerate(make(*arguments, start=start, **settings), start):
            if "sample_every" in what and step % what["sample_every"] == what["sample_every"] // 2:
                _sample(step, Path(str(main._WORKDIR.value)))
            yield batch | {"x_tn": batch["x_tn"] * factors[step]} if step in factors else batch

    def train_saved(config, workdir, **settings):
        return train(from_json(Path(what["config"]).read_text()) if "config" in what else config, workdir, **settings)

    loop.batches, loop.train = batches, train_saved
    program.run(main.main)


def _sample(step: int, workdir: Path) -> None:
    """Write what the process holds now."""
    grow = {workdir / "metrics.jsonl", *workdir.glob("tensorboard/*"), *workdir.glob("checkpoints/**/*")}
    threads = [_name_of(thread) for thread in os.listdir("/proc/self/task")]
    found = {
        "step": step,
        "seconds": time.monotonic(),
        "memory": int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE"),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "threads": sum(name != "ts_pool_worker" for name in threads),  # TensorStore's pool fills as needed
        "checkpoints": len(os.listdir(workdir / "checkpoints")),
        "bytes": sum(p.stat().st_size for p in workdir.rglob("*") if p.is_file() and p not in grow),
    }
    with (workdir.parent / "samples.jsonl").open("a") as file:
        file.write(json.dumps(found) + "\n")


def _name_of(thread: str) -> str:
    """Of a thread of this process, which may have ended."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/self/task/{thread}/comm").read_text().strip()
    return ""


if __name__ == "__main__":
    drive(json.loads(sys.argv.pop(1)))

"""Train: python -m tweedie_diffusion.main --config=configs/digits_noisy.py --workdir=runs/digits."""

import json
import shlex
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from tweedie_diffusion import program

_CONFIG = config_flags.DEFINE_config_file(
    "config", "configs/digits_noisy.py", "Settings; change one by --config.KEY=VALUE."
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Where the run lives. The same command goes on where it stopped.")
_ACCEPT_DATA = flags.DEFINE_bool("accept_data", False, "Go on although the data is not what the run began with.")
_DISTRIBUTED = flags.DEFINE_bool("distributed", False, "Train with the other processes of a pod, job or environment.")
_START_OVER = flags.DEFINE_bool("start_over", False, "Begin again at step 0; checkpoints that are there are set aside.")


def main(arguments: list[str]) -> None:
    """Train, and say what to look at and what to do next."""
    from tweedie_diffusion.data.errors import InputError
    from tweedie_diffusion.training.loop import train
    from tweedie_diffusion.training.processes import join_others, on_first_process

    if arguments:
        raise InputError(
            f"unexpected argument {arguments[0]!r}: flags are --config, --workdir, --start_over, --accept_data"
        )
    if not _WORKDIR.value:
        raise InputError("--workdir is missing: say where the run may live, e.g. --workdir=runs/digits")
    config_file = config_flags.get_config_filename(flags.FLAGS["config"]).split(":")[0]
    if not Path(config_file).is_file():
        raise InputError(f"the config file {config_file} does not exist")
    workdir = Path(_WORKDIR.value).expanduser()
    if _DISTRIBUTED.value:
        join_others()
    trained = train(
        _CONFIG.value,
        workdir,
        start_over=_START_OVER.value,
        accept_data=_ACCEPT_DATA.value,
        leave=program.leave,
    )
    if on_first_process():
        print("\n" + ("" if trained else "This run was finished already.\n") + _summary(workdir))


def _summary(workdir: Path) -> str:
    curve = json.loads((workdir / "denoising_curve.json").read_text())
    lines = ["Denoising images the training never saw (mean squared error / σ²):"]
    lines.append("  σ        " + "".join(f"{s:>8g}" for s in curve["sigma"]))
    lines.append("  MSE/σ²   " + "".join(f"{v:>8.3f}" for v in curve["relative_mse"]))
    if "oracle_mse" in curve:
        lines.append("  exact    " + "".join(f"{v:>8.3f}" for v in curve["oracle_mse"]))
    lines += ["", "Look at:"]
    directory = shlex.quote(str(workdir))
    names = ("samples.png", "samples_truncated.png", "denoised.png", "denoising_curve.png")
    lines += [f"  {workdir / name}" for name in names if (workdir / name).is_file()]
    lines += ["", "Next:", "  # draw clean images"]
    lines += [f"  python -m tweedie_diffusion.sample --workdir={directory} --num=64 --out=samples.png"]
    if (workdir / "held_out_noisy.npz").is_file():
        noisy = shlex.quote(str(workdir / "held_out_noisy.npz"))
        lines += ["  # denoise images: here noisy ones kept from training, or a folder of your own"]
        lines += [f"  python -m tweedie_diffusion.denoise --workdir={directory} {noisy} denoised.npz"]
    lines += ["  # how good is it", f"  python -m tweedie_diffusion.evaluate --workdir={directory}"]
    lines += ["  # in Python", f"  denoise = tweedie_diffusion.load({str(workdir)!r})  # denoise(x_t, sigma) -> x0_hat"]
    return "\n".join(lines)


if __name__ == "__main__":
    program.run(main)

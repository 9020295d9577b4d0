"""The largest batch that a device trains on, with and without `model.remat`.

    python -m experiments.benchmarks.memory              # on a CPU, which has no memory of its own: within 4 GiB
    python -m experiments.benchmarks.memory --gib=16     # within another budget

By what the compiler says that the whole train step needs, weights and optimiser included, and nothing is run: the
network of configs/cifar10_noisy.py, on a CPU that of its `:quick`, with ambient score matching and,
where the config has it, consistency.
"""

import jax
import jax.numpy as jnp
from absl import flags

from configs import cifar10_noisy
from experiments.benchmarks.largest import largest_batch
from experiments.benchmarks.untrained import described, fresh_weights
from experiments.report import provenance_lines
from tweedie_diffusion import program
from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.training.config import Config
from tweedie_diffusion.training.objective import make_objective
from tweedie_diffusion.training.sharding import make_mesh
from tweedie_diffusion.training.step import init_state, make_optimizer, make_train_step

SHAPE, CPU_GIB = (32, 32, 3), 4.0
HEAD = "| network | remat | largest batch | of them, GiB | an image more, MiB | ratio of batches |"

_GIB = flags.DEFINE_float("gib", 0.0, "Memory of a device; 0 for what it says, of a CPU 4.", lower_bound=0.0)
_FIRST = flags.DEFINE_integer("first", 64, "The batch that is tried first, then twice as many.", lower_bound=8)


def bytes_of_step(config: Config):
    """batch -> bytes on one device of the train step of a config, as compiled."""
    model, optimizer = described(config, SHAPE), make_optimizer(config.training)
    state = jax.eval_shape(lambda: init_state(fresh_weights(model), optimizer))
    terms = {"with_consistency": config.consistency.weight > 0, "with_refresh": False}
    mesh = make_mesh(jax.devices()[:1])
    objective = make_objective(config, model.make_denoise, model.facts.sigma_data, mesh=mesh, **terms)
    step = make_train_step(objective, optimizer, ema_decay=config.training.ema_decay, seed=0, mesh=mesh)

    def bytes_of(batch: int) -> int:
        of_rows = lambda shape, dtype: jax.ShapeDtypeStruct((batch, *shape), dtype)
        rows = {"x_tn": of_rows(SHAPE, jnp.float32), "sigma_tn": of_rows((), jnp.float32)}
        needs = step.lower(state, rows | {"label": of_rows((), jnp.int32)}).compile().memory_analysis()
        held = needs.argument_size_in_bytes + needs.output_size_in_bytes - needs.alias_size_in_bytes
        return held + needs.temp_size_in_bytes + needs.generated_code_size_in_bytes

    return bytes_of


def budget() -> float:
    """Bytes that a device may hold."""
    said = (jax.devices()[0].memory_stats() or {}).get("bytes_limit", CPU_GIB * 2**30)
    return _GIB.value * 2**30 or said


def main(arguments: list[str]) -> None:
    """Print a line without and one with `remat`."""
    if arguments:
        raise InputError(f"unexpected argument {arguments[0]!r}: flags are --gib, --first")
    variant = "quick" if jax.default_backend() == "cpu" else ""
    print(f"{provenance_lines()}\n* budget: {budget() / 2**30:.1f} GiB\n\n{HEAD}\n|{'---|' * HEAD.count(' | ')}---|")
    alone = 0
    for remat in (False, True):
        config = cifar10_noisy.get_config(variant)
        config.model.remat = remat
        known = largest_batch(bytes_of_step(config), budget=budget(), first=_FIRST.value)
        fitting = [tried for tried in known if known[tried] <= budget()]
        if not fitting:
            raise InputError(f"not even a batch of {min(known)} fits: raise --gib")
        batch = fitting[-1]
        each = (max(known.values()) - min(known.values())) / (max(known) - min(known))
        alone = alone or batch
        cells = [f"{batch}", f"{known[batch] / 2**30:.2f}", f"{each / 2**20:.1f}", f"{batch / alone:.2f}"]
        print(f"| cifar10_noisy.py{variant and ':' + variant} | {remat} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    program.run(main)

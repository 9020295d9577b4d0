"""One training on 8 simulated devices, its state whole on each or in parts over groups of them, and on one."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.training.checkpoints import restore_saved
from tweedie_diffusion.training.config import default_config
from tweedie_diffusion.training.sharding import check_devices, make_mesh, own_shapes, part
from tweedie_diffusion.training.step import init_state
from tweedie_diffusion.training.trace import state_digest

LARGE, SMALL = 2 * 8 * 512, 512  # numbers of the weights that are cut, and of those that are not
FEW = 20  # of scalars that a step sums: the loss, and the norm of the gradient, twice, of each array


def first_state():
    """Of x + tanh(x A + b) B."""
    draw = np.random.default_rng(0).normal
    params = {"in": draw(size=(8, 512)), "bias": draw(size=512), "out": draw(size=(512, 8)) / 512}
    return init_state(jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params), optax.adam(1e-2))


CODE = """
import json, math, re, sys
from pathlib import Path
import jax, jax.numpy as jnp, numpy as np, optax
sys.path.insert(0, {tests!r})
from test_sharding import first_state
from tweedie_diffusion.training.checkpoints import Checkpoints
from tweedie_diffusion.training.config import default_config
from tweedie_diffusion.training.objective import make_objective
from tweedie_diffusion.training.processes import place
from tweedie_diffusion.training.sharding import make_mesh
from tweedie_diffusion.training.step import layout_of, make_train_step
from tweedie_diffusion.training.trace import state_digest

network = lambda params, x: x + jnp.tanh(x @ params["in"] + params["bias"][None]) @ params["out"]
make_denoise = lambda params, **_: lambda x, sigma: network(params, x)
rng = np.random.default_rng(1)
batch = dict(x_tn=rng.normal(size=(64, 8)), sigma_tn=np.full(64, 0.5), label=np.zeros(64, int))
batch = dict((name, array.astype(np.float32)) for name, array in batch.items())


def sizes(text, name):
    found = [m[1] for m in re.finditer(r"= (.*?) " + name + r"(?:-start)?[(]", text)]
    shapes = [dims.split(",") for one in found for dims in re.findall(r"[a-z]+[0-9]+[[]([0-9,]*)[]]", one)]
    return sum(math.prod(int(n) for n in dims if n) for dims in shapes)


def trained(shards, **settings):
    mesh, state = make_mesh(shards=shards), first_state()
    layout = layout_of(state, mesh)
    state = place(state, layout)
    terms = dict(with_consistency=settings.pop("with_consistency", False))
    config = default_config()
    config.consistency.start, config.consistency.ramp_steps = 0, 1
    objective = make_objective(config, make_denoise, 0.5, **terms)
    step = make_train_step(objective, optax.adam(1e-2), ema_decay=0.9, seed=0, mesh=mesh, layout=layout, **settings)
    step = step.lower(state, batch).compile()
    text, losses = step.as_text(), []
    for _ in range(4):
        state, metrics = step(state, jax.device_put(batch, step.input_shardings[0][1]))
        losses += [float(metrics["loss"]), float(metrics["grad_norm"])]
    moves = dict((name, sizes(text, name)) for name in (
        "all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast"))
    return state, losses, moves


def bytes_of(state):
    leaves = jax.tree.leaves(state)
    return [sum(leaf.addressable_data(0).nbytes for leaf in leaves), sum(leaf.nbytes for leaf in leaves)]


folder, told = Path(sys.argv[1]), dict()
for shards in json.loads(sys.argv[2]):
    state, losses, _ = trained(shards, with_consistency=True)
    workdir = folder / f"{{jax.device_count()}} {{shards}}"
    with Checkpoints(workdir, keep=1) as checkpoints:
        checkpoints.save(state)
    others = [Checkpoints(workdir, keep=None).restore(4, first_state(), make_mesh(shards=n)) for n in (0, shards)]
    told[shards] = dict(losses=losses, bytes=bytes_of(state), digest=state_digest(state))
    told[shards] |= dict(restored=[state_digest(other) for other in others], restored_bytes=bytes_of(others[1]))
    told[shards] |= dict(moves=trained(shards)[2], moves_in_parts=trained(shards, micro_batches=2)[2])
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """{(devices, shards): what was told of a run}, with its `workdir`."""
    folder, found = tmp_path_factory.mktemp("runs"), {}
    for devices, shards in ((1, [0]), (8, [0, 2, 8])):
        flags = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}", "JAX_PLATFORMS": "cpu"}
        code = CODE.format(tests=os.path.dirname(__file__))
        command = [sys.executable, "-c", code, str(folder), json.dumps(shards)]
        run = subprocess.run(command, env=os.environ | flags, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr[-2000:]
        for n, told in json.loads(run.stdout).items():
            found[devices, int(n)] = told | {"workdir": folder / f"{devices} {n}"}
    return found


@pytest.mark.parametrize("shards", [0, 2, 8])
def test_losses_gradients_and_states_are_those_of_one_device(runs, shards):
    one, many = runs[1, 0], runs[8, shards]
    np.testing.assert_allclose(many["losses"], one["losses"], rtol=1e-5)
    like = jax.eval_shape(first_state)
    alone, state = (jax.tree.leaves(restore_saved(run["workdir"], like)) for run in (one, many))
    for expected, got in zip(alone, state, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_a_step_with_the_state_on_each_device_moves_nothing_but_gradients_and_scalars(runs):
    moves = dict(runs[8, 0]["moves"])
    assert 0 <= moves.pop("all-reduce") - LARGE - SMALL <= FEW
    assert not any(moves.values())


@pytest.mark.parametrize("shards", [2, 8])
def test_a_step_in_parts_gathers_the_weights_and_no_image(runs, shards):
    moves = dict(runs[8, shards]["moves"])
    assert moves.pop("all-gather") == LARGE
    assert 0 <= moves.pop("all-reduce") + moves.pop("reduce-scatter") - LARGE - SMALL <= FEW
    assert not any(moves.values())


@pytest.mark.parametrize("shards", [0, 2, 8])
def test_micro_batches_move_no_image_either(runs, shards):
    whole, parts = (dict(runs[8, shards][name]) for name in ("moves", "moves_in_parts"))
    assert abs(parts.pop("all-reduce") - whole.pop("all-reduce")) <= FEW
    assert parts == whole


@pytest.mark.parametrize("shards", [2, 8])
def test_a_device_holds_its_part_of_large_arrays_alone(runs, shards):
    for own, everything in (runs[8, shards]["bytes"], runs[8, shards]["restored_bytes"]):
        small = everything - 4 * 4 * LARGE  # weights, average and two moments, of 4 bytes
        assert own == 4 * 4 * LARGE / shards + small


@pytest.mark.parametrize("shards", [0, 2, 8])
def test_checkpoints_are_of_the_state_and_come_back_to_any_devices(runs, shards):
    run = runs[8, shards]
    alone = restore_saved(run["workdir"], jax.eval_shape(first_state))
    assert {run["digest"], state_digest(alone), *run["restored"]} == {run["digest"]}


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((64, 64), PartitionSpec(None, "shard")),
        ((3, 3, 512, 256), PartitionSpec(None, None, "shard")),
        ((1025, 12), PartitionSpec(None, "shard")),
        ((1025, 5), PartitionSpec()),
        ((4092,), PartitionSpec()),
        ((), PartitionSpec()),
    ],
)
def test_an_array_is_cut_along_its_longest_axis_that_can_be(shape, expected):
    mesh = jax.sharding.AbstractMesh((2, 4), ("data", "shard"))
    assert part(shape, mesh).spec == expected


def training(**settings):
    chosen = default_config().training
    chosen.update(settings)
    return chosen


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shards": 3}, "training.shards=3 does not divide the number of devices, 8: use one of 1, 2, 4, 8, or 0"),
        ({"shards": 16}, "training.shards=16 does not divide the number of devices, 8"),
        ({"batch_size": 36}, "training.batch_size=36 cannot be split over 8 devices: use a multiple of 8"),
        ({"accumulate": 3}, "batch_size=64 cannot be split over 8 devices in 3 micro-batches: use a multiple of 24"),
    ],
)
def test_what_eight_devices_cannot_share_is_refused_with_what_they_can(settings, message):
    with pytest.raises(InputError, match=message):
        check_devices(training(**settings), 8)


def test_a_mesh_has_a_group_a_device_unless_it_is_told_otherwise():
    assert dict(make_mesh().shape) == {"data": jax.device_count(), "shard": 1}


def test_a_device_of_a_group_of_four_has_a_quarter_of_what_is_cut():
    mesh = jax.sharding.AbstractMesh((2, 4), ("data", "shard"))
    tree = {"large": np.zeros((3, 64, 128)), "small": np.zeros(128)}
    own = own_shapes(tree, {name: part(array.shape, mesh) for name, array in tree.items()})
    assert {name: shape.shape for name, shape in own.items()} == {"large": (3, 64, 32), "small": (128,)}


UNET = """
import json, re, jax
from tweedie_diffusion.data.scaling import Scaling
from tweedie_diffusion.training.config import default_config
from tweedie_diffusion.training.denoiser import build_network, denoiser_maker, init_params
from tweedie_diffusion.training.facts import DataFacts
from tweedie_diffusion.training.objective import make_objective
from tweedie_diffusion.training.sharding import make_mesh
from tweedie_diffusion.training.step import first_buffer, init_state, layout_of, make_optimizer, make_train_step

config, facts = default_config(), DataFacts((8, 8, 2), 0.5, 0.3, 0.3, 0, Scaling(-1, 1, "float32"), 100, 100)
config.model.update(channels=8, channel_multipliers=(1,), blocks_per_resolution=1, attention_resolutions=())
config.consistency.start, config.consistency.step = 0, "midpoint"
config.refresh.weight, config.refresh.capacity = 1.0, 256
network, mesh, optimizer = build_network(config.model, facts), make_mesh(), make_optimizer(config.training)
first = lambda: init_state(
    init_params(jax.random.key(0), network, config.model, facts), optimizer, first_buffer(config.refresh, facts.shape)
)
like = jax.eval_shape(first)
shapes = dict(x_tn=(256, 8, 8, 2), sigma_tn=(256,), label=(256,))
batch = dict((n, jax.ShapeDtypeStruct(s, "int32" if n == "label" else "float32")) for n, s in shapes.items())
make_denoise, terms = denoiser_maker(network, config.model, facts), dict(with_consistency=True, with_refresh=True)
objective = make_objective(config, make_denoise, 0.5, mesh=mesh, **terms)
step = make_train_step(objective, optimizer, ema_decay=0.9, seed=0, mesh=mesh, layout=layout_of(like, mesh))
text = step.lower(like, batch).compile().as_text()
rows = sorted(set(map(int, re.findall(r"= f32.([0-9]+),8,8,[0-9]+.[^ ]* convolution", text))))
moves = sorted(set(re.findall(r" (all-[a-z]+|collective-[a-z]+|reduce-scatter)(?:-start)?[(]", text)))
print(json.dumps([rows, moves]))
"""


def test_every_term_of_a_u_net_is_split_as_the_batch_is_and_moves_no_image():
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    run = subprocess.run(
        [sys.executable, "-c", UNET], env=os.environ | flags, capture_output=True, text=True, check=True
    )
    rows, moves = json.loads(run.stdout)
    assert rows == [2, 6, 32]  # of a device: an eighth of 16 consistency pairs, of 48 draws, of 256 images
    assert moves == ["all-reduce"]

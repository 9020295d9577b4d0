import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmarks.largest import largest_batch
from experiments.benchmarks.logged import intervals
from experiments.benchmarks.network_calls import network_calls
from experiments.benchmarks.starts import compiled_of, phases_of
from experiments.benchmarks.traffic import bytes_of, kernels
from experiments.benchmarks.turns import in_turns, ratio
from experiments.benchmarks.untrained import mixture_like
from tweedie_diffusion.diffusion.reverse_steps import REVERSE_STEPS
from tweedie_diffusion.models.patch_mixture import patch_denoiser
from tweedie_diffusion.training.config import default_config


def test_kinds_take_turns_and_the_first_turn_does_not_count():
    asked, clock = [], iter(range(100))

    def kind(name):
        return lambda: asked.append(name) or float(next(clock))

    found = in_turns({"a": kind("a"), "b": kind("b")}, turns=2)
    assert asked == ["a", "b"] * 3
    assert found == {"a": [2.0, 4.0], "b": [3.0, 5.0]}


def test_the_ratio_is_that_of_the_turns_not_of_the_medians():
    assert ratio([1.0, 9.0, 2.0], [1.0, 3.0, 8.0]) == 1.0  # of 1, 3 and 1/4; that of the medians is 2/3


@pytest.mark.parametrize(("step", "calls"), [("heun", 2 * 17 + 1), ("euler", 18), ("ancestral", 18), ("midpoint", 35)])
def test_network_calls_of_a_grid_of_18_levels(step, calls):
    assert network_calls(REVERSE_STEPS[step], np.geomspace(80, 0.02, 18).astype(np.float32)) == calls


@pytest.mark.parametrize("truth", [8, 40, 64, 1000])
def test_where_memory_follows_a_line_three_batches_tell_the_largest(truth):
    known = largest_batch(lambda batch: 50 + 3 * batch, budget=50 + 3 * truth + 20, first=64)
    assert len(known) <= 3
    assert max(batch for batch in known if known[batch] <= 50 + 3 * truth + 20) == truth


def test_where_memory_jumps_the_largest_batch_is_closed_in_on():
    known = largest_batch(lambda batch: 10 * batch + 2000 * (batch > 400), budget=6000, first=64)
    assert max(batch for batch in known if known[batch] <= 6000) == 400


def test_a_budget_below_the_weights_fits_no_batch():
    assert largest_batch(lambda batch: 1000 + batch, budget=500, first=64) == {64: 1064, 128: 1128}


def test_a_phase_lasts_until_the_next_and_compilations_of_one_name_are_summed():
    lines = [
        (2.0, "fitting a mixture of 16 to the noisy data"),
        (3.0, "WARNING:jax._src.dispatch:Finished XLA compilation of jit(gains) in 0.25 sec"),
        (3.5, "WARNING:jax._src.dispatch:Finished XLA compilation of jit(gains) in 5e-1 sec"),
        (5.0, "step 0: compiling ambient score matching"),
        (9.0, "WARNING:jax._src.dispatch:Finished XLA compilation of jit(train_step) in 3.5 sec"),
    ]
    phases = phases_of(lines, 10.0)
    assert phases == {
        "modules and data": 2.0,
        "fit of the mixture": 3.0,
        "the first step: compilation, run": 5.0,
    }
    assert compiled_of(lines) == {"gains": 0.75, "train_step": 3.5}


def test_the_first_interval_of_a_training_and_lines_without_a_speed_are_left_out(tmp_path):
    speed = lambda wait: {"steps_per_second": 2.0, "images_per_second": 128.0, "data_wait": wait}
    lines = [
        {"step": 10} | speed(0.9),
        {"step": 20} | speed(0.1),
        {"step": 20, "score": 1.0},
        {"step": 30} | speed(0.2),
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert intervals(tmp_path / "metrics.jsonl") == [(2.0, 128.0, 0.1), (2.0, 128.0, 0.2)]


def test_the_mixture_of_no_data_is_white():
    model = default_config().model
    model.patch_components, model.patch_side = 3, 2
    x_t = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 5, 6, 1)).astype(np.float32)
    x0_hat = patch_denoiser(mixture_like(model, (5, 6, 1)))(x_t, np.full(2, 0.5, np.float32))
    np.testing.assert_allclose(x0_hat, x_t / (1 + 0.5**2), rtol=1e-4)


@pytest.mark.parametrize(
    ("type_", "count"),
    [("f32[2,3]{1,0}", 24), ("(bf16[4]{0}, pred[], s8[5]{0:T(128)})", 14), ("f8e4m3fn[6]", 6), ("token[]", 0)],
)
def test_bytes_of_a_type_of_xla(type_, count):
    assert bytes_of(type_) == count


def test_a_compiled_program_reads_its_operands_and_writes_its_results():
    x, y = jnp.zeros((100, 10)), jnp.zeros((10, 50))
    compiled = jax.jit(lambda x, y: (jnp.sin(x) + 1, jnp.dot(x, y))).lower(x, y).compile()
    assert sum(kernel.bytes for kernel in kernels(compiled.as_text())) == 4 * (2 * 1000 + 1000 + 500 + 100 * 50)


def test_of_what_a_fusion_slices_the_slices_are_read():
    hlo = """
%fused (p.0: f32[8], p.1: f32[2]) -> f32[2] {
  %p.0 = f32[8]{0} parameter(0)
  %cast = bf16[8]{0} convert(%p.0)
  %first = bf16[2]{0} slice(%cast), slice={[0:2]}
  %p.1 = f32[2]{0} parameter(1)
  ROOT %sum = f32[2]{0} add(%first, %p.1)
}

ENTRY %main (a: f32[8], b: f32[2]) -> f32[2] {
  %a = f32[8]{0} parameter(0)
  %b = f32[2]{0} parameter(1)
  %theirs = f32[2]{0} custom-call(%b), custom_call_target="cudnn", metadata={op_name="conv"}
  ROOT %ours = f32[2]{0} fusion(%a, %theirs), kind=kLoop, calls=%fused, metadata={op_name="add"}
}
"""
    assert kernels(hlo) == [("theirs", 16, "cudnn", "conv"), ("ours", 8 + 8 + 8, "", "add")]


def test_what_is_started_and_awaited_counts_once():
    hlo = """
ENTRY %main (a: f32[8]) -> f32[8] {
  %a = f32[8]{0} parameter(0)
  %begun = (f32[8]{0}, f32[8]{0}) copy-start(%a)
  ROOT %done = f32[8]{0} copy-done(%begun)
}
"""
    assert [kernel.bytes for kernel in kernels(hlo)] == [2 * 32]


def test_loops_are_refused():
    compiled = jax.jit(lambda x: jax.lax.fori_loop(0, 50, lambda _, x: jnp.sin(x @ x), x)).lower(jnp.eye(10)).compile()
    with pytest.raises(ValueError, match="the program has a while"):
        kernels(compiled.as_text())

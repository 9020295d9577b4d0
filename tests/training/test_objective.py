from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from tweedie_diffusion.diffusion.noise_levels import log_normal_sigma
from tweedie_diffusion.diffusion.oracles import gaussian_denoiser
from tweedie_diffusion.diffusion.refresh import draw_rows, empty_buffer, replace_oldest
from tweedie_diffusion.diffusion.rows import expand
from tweedie_diffusion.training.config import default_config
from tweedie_diffusion.training.objective import (
    ambient_term,
    consistency_levels,
    consistency_term,
    in_halves,
    log_normal_law,
    make_objective,
    refresh_term,
)

MEAN, VARIANCE, SIGMA_DATA = 0.3, 0.25, 0.5


def test_the_law_of_the_host_is_that_of_the_device():
    """At quantiles; of σ_t above a least level, as SciPy cuts the normal law of ln σ_t."""
    ambient = default_config().ambient
    uniform = (np.arange(4000) + 0.5) / 4000
    drawn = log_normal_sigma(
        jax.random.key(0), (40_000,), p_mean=ambient.p_mean, p_std=ambient.p_std, sigma_min=0.4, sigma_max=80.0
    )
    quantiles = np.linspace(0.05, 0.95, 10)
    expected = np.quantile(log_normal_law(ambient)(uniform, 0.4), quantiles)
    np.testing.assert_allclose(np.quantile(drawn, quantiles), expected, rtol=0.03)


def gaussian_batch(rng, sigma_tn, shape=(4096, 3)):
    x_0 = MEAN + VARIANCE**0.5 * rng.standard_normal(shape)
    return jnp.asarray(x_0 + np.reshape(sigma_tn, (-1, 1)) * rng.standard_normal(shape), jnp.float32)


def shifted(shift):
    """The exact denoiser, wrong by a constant."""
    oracle = gaussian_denoiser(MEAN, VARIANCE)
    return lambda x, sigma: oracle(x, sigma) + shift


def mean_and_error(values):
    return np.mean(values), np.std(values, ddof=1) / np.sqrt(len(values))


def test_ambient_gradient_vanishes_at_the_exact_denoiser_with_clean_and_noisy_rows(rng):
    sigma_tn = jnp.where(jnp.arange(4096) % 4 == 0, 0.0, 0.4)
    x_tn = gaussian_batch(rng, sigma_tn)
    slope = jax.jit(
        jax.grad(
            lambda shift, key: ambient_term(
                key, shifted(shift), x_tn, sigma_tn, ambient=default_config().ambient, sigma_data=SIGMA_DATA
            )
        )
    )
    slopes = [slope(0.0, jax.random.key(i)) for i in range(20)]
    mean, _ = mean_and_error(slopes)
    reference = slope(0.1, jax.random.key(99))  # of a denoiser that is wrong by .1
    assert abs(mean) < 0.05 * abs(reference)


def test_near_rows_lie_just_above_the_noise_of_their_image():
    seen = []
    config = default_config()
    config.ambient.near_fraction = 0.5

    def spy(x, sigma):
        seen.append(sigma)
        return x

    sigma_tn = jnp.full(64, 0.4).at[1].set(0.0)
    ambient_term(jax.random.key(0), spy, jnp.zeros((64, 2)), sigma_tn, ambient=config.ambient, sigma_data=1.0)
    near = np.delete(np.asarray(seen[0])[:32], 1)
    assert ((near >= 1.02 * 0.4) & (near <= 2.5 * 0.4)).all()


def test_consistency_pairs_lie_anywhere_between_front_and_data_noise():
    sigma_tn = jnp.full(20_000, 0.5)
    sigma_t, sigma_s = consistency_levels(jax.random.key(0), sigma_tn, 0.05 * sigma_tn / 0.5, max_log_step=0.3)
    assert (np.asarray(sigma_s) >= 0.05 * 0.9999).all()
    assert (np.asarray(sigma_t) <= 0.5).all()
    assert (np.asarray(sigma_s) < np.asarray(sigma_t)).all()
    assert np.mean(np.asarray(sigma_t) < 0.49) > 0.8  # not only at the boundary
    steps = np.log(np.asarray(sigma_t / sigma_s))
    assert steps.max() <= 0.3 * 1.0001


def consistency_value(denoise, teacher, x_tn, sigma_tn, key=0, progress=1.0, ridge=0.0):
    consistency = default_config().consistency
    consistency.ridge, consistency.max_log_step = ridge, 0.5
    return consistency_term(
        jax.random.key(key),
        denoise,
        teacher,
        x_tn,
        sigma_tn,
        progress,
        consistency=consistency,
        sigma_data=SIGMA_DATA,
    )


def test_consistency_is_zero_at_the_exact_denoiser(rng):
    x_tn, sigma_tn = gaussian_batch(rng, 0.5), jnp.full(4096, 0.5)
    oracle = shifted(0.0)
    assert abs(float(consistency_value(oracle, oracle, x_tn, sigma_tn))) < 1e-6  # linear: antithetic noise cancels


def test_the_ridge_weighs_the_variance_that_the_exact_denoiser_has(rng):
    x_tn, sigma_tn = gaussian_batch(rng, 0.5), jnp.full(4096, 0.5)
    oracle = shifted(0.0)
    sigma_s = 0.5 * 0.1 ** rng.uniform(size=100_000)  # log-uniform in [.05, .5]
    sigma_t = np.minimum(sigma_s * np.exp(0.5 * rng.uniform(0.3, 1.0, size=100_000)), 0.5)
    gain, weight = VARIANCE / (VARIANCE + sigma_s**2), 1 / sigma_t**2 + 1 / SIGMA_DATA**2
    whole = np.mean(weight * gain**2 * sigma_s**2 * (1 - (sigma_s / sigma_t) ** 2))
    for ridge in (0.5, 1.0):
        value = float(consistency_value(oracle, oracle, x_tn, sigma_tn, ridge=ridge))
        assert value == pytest.approx(ridge * whole, rel=0.05)


def test_consistency_sees_a_student_that_disagrees_with_its_teacher(rng):
    x_tn, sigma_tn = gaussian_batch(rng, 0.5), jnp.full(4096, 0.5)
    value = consistency_value(shifted(0.1), shifted(0.0), x_tn, sigma_tn)
    lightest, heaviest = 1 / SIGMA_DATA**2 + 1 / 0.5**2, 1 / SIGMA_DATA**2 + 1 / 0.05**2  # λ(σ_t) on [.05, .5]
    assert 0.01 * lightest < float(value) < 0.01 * heaviest


def test_clean_images_take_no_part_in_consistency(rng):
    sigma_tn = jnp.where(jnp.arange(64) % 2 == 0, 0.0, 0.5)
    x_tn = gaussian_batch(rng, sigma_tn, (64, 3))
    other = jnp.where((sigma_tn == 0)[:, None], 7.0, x_tn)
    values = [consistency_value(shifted(0.1), shifted(0.0), x, sigma_tn) for x in (x_tn, other)]
    assert np.isfinite(values[0])
    assert values[0] == values[1]


@pytest.mark.parametrize(("step", "share"), [(200, 0.25), (201, 0.5), (203, 1.0), (900, 1.0)])
def test_the_consistency_weight_ramps_up_from_its_start(rng, step, share):
    config = default_config()
    config.consistency.weight = 3.0
    config.consistency.ramp_steps = 4
    batch = {"x_tn": gaussian_batch(rng, 0.5, (64, 3)), "sigma_tn": jnp.full(64, 0.5), "label": jnp.zeros(64, int)}
    make_denoise = lambda shift, **_: shifted(shift)
    objective = make_objective(config, make_denoise, SIGMA_DATA, with_consistency=True)
    loss, parts = objective(0.1, 0.0, jax.random.key(0), batch, step)
    expected = parts["ambient_loss"] + 3.0 * share * parts["consistency_loss"]
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_no_gradient_reaches_the_teacher(rng):
    batch = {"x_tn": gaussian_batch(rng, 0.5, (64, 3)), "sigma_tn": jnp.full(64, 0.5), "label": jnp.zeros(64, int)}
    objective = make_objective(default_config(), lambda shift, **_: shifted(shift), SIGMA_DATA, with_consistency=True)
    slope = jax.grad(lambda teacher: objective(0.1, teacher, jax.random.key(0), batch, 500)[0])(0.0)
    assert slope == 0.0


def test_a_tenth_of_the_labels_is_hidden(rng):
    config, seen = default_config(), []
    config.model.class_conditional = True
    config.training.batch_size = 4096

    def make_denoise(shift, *, labels=None, **_):
        seen.append(labels)
        return shifted(shift)

    batch = {"x_tn": gaussian_batch(rng, 0.5), "sigma_tn": jnp.full(4096, 0.5), "label": jnp.full(4096, 3)}
    make_objective(config, make_denoise, SIGMA_DATA, with_consistency=False)(0.0, 0.0, jax.random.key(0), batch, 0)
    hidden = np.mean(np.asarray(seen[0]) == -1)
    assert hidden == pytest.approx(0.1, abs=5 * (0.1 * 0.9 / 4096) ** 0.5)


def clean_buffer(rng, count=8192):
    """Draws of the exact prior."""
    x_0 = jnp.asarray(MEAN + VARIANCE**0.5 * rng.standard_normal((count, 3)), jnp.float32)
    return replace_oldest(empty_buffer(count, (3,)), x_0, jnp.arange(count, dtype=jnp.int32))


def draw_from(buffer, key, count):
    return draw_rows(key, buffer, count)


def test_refresh_at_the_exact_denoiser_is_the_posterior_variance(rng):
    # λ(σ)·Vσ²/(V + σ²) = 1 at every level, if σ_d² = V.
    value = refresh_term(
        jax.random.key(0),
        lambda labels: shifted(0.0),
        partial(draw_from, clean_buffer(rng)),
        jnp.full(8, 0.5),
        8192,
        sigma_min=0.05,
        sigma_data=VARIANCE**0.5,
    )
    assert float(value) == pytest.approx(1.0, abs=5 * (2 / (3 * 8192)) ** 0.5)


def test_refresh_takes_draws_with_their_labels_at_levels_up_to_just_above_the_data_noise(rng):
    buffer, seen = clean_buffer(rng, 64), {}

    def make_denoise(labels):
        def denoise(x, sigma):
            seen.update(x=x, sigma=sigma, labels=labels)
            return x

        return denoise

    sigma_tn = jnp.array([0.0, 0.5, 0.3])
    draw = partial(draw_from, buffer)
    refresh_term(jax.random.key(0), make_denoise, draw, sigma_tn, 4096, sigma_min=0.05, sigma_data=0.5)
    sigma, noise = np.asarray(seen["sigma"]), np.asarray(seen["x"] - buffer.x_0[seen["labels"]])
    assert 0.025 <= sigma.min() < 0.026
    assert 0.53 < sigma.max() <= 0.55
    assert np.mean(np.square(noise / sigma[:, None])) == pytest.approx(1.0, abs=5 * (2 / noise.size) ** 0.5)


def test_the_refresh_loss_is_added_with_its_weight(rng):
    config = default_config()
    config.refresh.weight = 0.7
    batch = {"x_tn": gaussian_batch(rng, 0.5, (64, 3)), "sigma_tn": jnp.full(64, 0.5), "label": jnp.zeros(64, int)}
    objective = make_objective(config, lambda shift, **_: shifted(shift), SIGMA_DATA, with_refresh=True)
    loss, parts = objective(0.1, 0.0, jax.random.key(0), batch, 0, clean_buffer(rng, 64))
    np.testing.assert_allclose(loss, parts["ambient_loss"] + 0.7 * parts["refresh_loss"], rtol=1e-5)


def test_pairs_of_the_paper_start_from_real_noise_above_the_data_and_seldom_end_below_it(rng):
    consistency, seen = default_config().consistency, []
    consistency.anchor, consistency.gradient, consistency.max_log_step = "above", "both", 0.1

    def spy(x, sigma):
        seen.append(sigma)
        return x

    x_tn, sigma_tn = gaussian_batch(rng, 0.5, (4096, 3)), jnp.full(4096, 0.5)
    options = {"consistency": consistency, "sigma_data": 0.5}
    consistency_term(jax.random.key(0), spy, lambda x, sigma: x, x_tn, sigma_tn, 1.0, **options)
    high, low = np.asarray(seen[0]), np.asarray(seen[1])
    assert (high >= 0.5).all()
    assert (low <= high).all()
    assert 0.03 < np.mean(low < 0.5) < 0.07  # a step U·.1 from a level V of [0, 1]: .1/2


@pytest.mark.parametrize("gradient", ["low", "both"])
@pytest.mark.parametrize("ema_teacher", [True, False])
def test_only_the_sides_asked_for_learn(rng, gradient, ema_teacher):
    config = default_config()
    config.consistency.gradient, config.consistency.ema_teacher = gradient, ema_teacher
    batch = {"x_tn": gaussian_batch(rng, 0.5, (64, 3)), "sigma_tn": jnp.full(64, 0.5), "label": jnp.zeros(64, int)}
    objective = make_objective(config, lambda shift, **_: shifted(shift), SIGMA_DATA, with_consistency=True)
    term = lambda shift, teacher: objective(shift, teacher, jax.random.key(0), batch, 500)[1]["consistency_loss"]
    slope, teacher_slope = jax.grad(term, argnums=(0, 1))(0.1, 0.3)
    assert teacher_slope == 0.0
    # With both sides learning, a shift common to denoise(x_s) and denoise(x_t) cancels.
    assert (abs(slope) < 1e-4) == (gradient == "both")


def labelled_denoisers(seen):
    """params·σ·x_t + label; the number of rows of each call in `seen`."""

    def make(params, *, labels, dropout_key=None):
        def denoise(x_t, sigma):
            seen.append(len(x_t))
            return params * expand(sigma, x_t) * x_t + expand(labels, x_t)

        return denoise

    return make


@pytest.mark.parametrize(("count", "calls"), [(8, [4, 4]), (9, [9]), (6, [6])])
def test_two_halves_are_one_batch(rng, count, calls):
    x_t, sigma, seen = rng.normal(size=(count, 32, 32, 1)), rng.uniform(1, 2, count), []
    found = in_halves(labelled_denoisers(seen))(2.0, labels=jnp.arange(count))(jnp.asarray(x_t), jnp.asarray(sigma))
    expected = 2 * sigma[:, None, None, None] * x_t + np.arange(count)[:, None, None, None]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert seen == calls


ONE_CPU = Mesh(np.array(jax.devices("cpu")[:1]).reshape(1, 1), ("data", "shard"))


@pytest.mark.parametrize(
    ("network", "dropout", "mesh", "calls"),
    [("unet", 0, ONE_CPU, [4, 4]), ("mlp", 0, ONE_CPU, [8]), ("unet", 0.1, ONE_CPU, [8]), ("unet", 0, None, [8])],
)
def test_images_are_halved_where_it_is_known_that_one_cpu_computes(network, dropout, mesh, calls):
    config, seen = default_config(), []
    config.model.network, config.model.dropout = network, float(dropout)
    objective = make_objective(config, labelled_denoisers(seen), SIGMA_DATA, mesh=mesh)
    batch = {"x_tn": jnp.zeros((8, 32, 32, 1)), "sigma_tn": jnp.full(8, 0.5), "label": jnp.zeros(8)}
    objective(1.0, 1.0, jax.random.key(0), batch, 0)
    assert seen == calls


def test_halves_change_no_loss_and_no_gradient(rng):
    """Of all terms, with labels and mirrored draws; a sixteenth of the batch is large too."""
    config, seen = default_config(), []
    config.ambient.antithetic, config.consistency.start, config.refresh.weight = True, 0, 1.0
    x_tn = jnp.asarray(rng.normal(size=(128, 32, 32, 1)), jnp.float32)
    batch = {"x_tn": x_tn, "sigma_tn": jnp.full(128, 0.5), "label": jnp.arange(128) % 2}
    buffer = replace_oldest(empty_buffer(128, (32, 32, 1)), x_tn, batch["label"])

    def loss_and_gradient(mesh):
        objective = make_objective(
            config, labelled_denoisers(seen), SIGMA_DATA, with_consistency=True, with_refresh=True, mesh=mesh
        )
        both = jax.jit(jax.value_and_grad(objective, has_aux=True))
        (_, parts), gradient = both(0.5, 0.4, jax.random.key(0), batch, 5, buffer)
        return [*parts.values(), gradient]

    np.testing.assert_allclose(loss_and_gradient(ONE_CPU), loss_and_gradient(None), rtol=1e-4)
    assert set(seen) == {64, 12, 4, 128, 24, 8}  # of each term half, then all

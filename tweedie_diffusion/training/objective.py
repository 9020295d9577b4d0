"""The training objective: ambient score matching above the data's noise, consistency or refresh below it."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from tweedie_diffusion.diffusion.corruption import add_noise
from tweedie_diffusion.diffusion.losses import ambient_loss, consistency_loss, denoising_loss, edm_weight
from tweedie_diffusion.diffusion.noise_levels import log_normal_sigma
from tweedie_diffusion.diffusion.refresh import ReplayBuffer, draw_rows
from tweedie_diffusion.diffusion.reverse_steps import STOCHASTIC_STEPS
from tweedie_diffusion.diffusion.rows import as_rows, one_by_one
from tweedie_diffusion.diffusion.sampling import carry_down
from tweedie_diffusion.diffusion.types import DenoiseFn
from tweedie_diffusion.training.config import Config
from tweedie_diffusion.training.sharding import spread_rows

LARGE = 8 * 32 * 32  # pixels of a batch on a CPU; of fewer, halves take longer to compile than they save


def ambient_term(
    key, denoise: DenoiseFn, x_tn, sigma_tn, sigma_t=None, *, ambient: Config, sigma_data: float, map_draws=jax.vmap
) -> jax.Array:
    """mean λ(σ_t)·ambient_loss, σ_t log-normal above each image's σ_tn; the first `near_fraction` of the rows of noisy
    images log-uniform in [1.02, 2.5]·σ_tn, where everything below the data's noise takes its start. Or all of it as it
    was drawn before the images.
    """
    key_law, key_near, key_loss = jax.random.split(key, 3)
    batch = x_tn.shape[0]
    if sigma_t is None:
        law = {"p_mean": ambient.p_mean, "p_std": ambient.p_std, "sigma_max": ambient.sigma_max}
        sigma_t = log_normal_sigma(key_law, (batch,), sigma_min=sigma_tn, **law)
        near = sigma_tn * 1.02 * (2.5 / 1.02) ** jax.random.uniform(key_near, (batch,))
        is_near = (jnp.arange(batch) < ambient.near_fraction * batch) & (sigma_tn > 0)
        sigma_t = jnp.where(is_near, near, sigma_t)
    loss = ambient_loss(
        key_loss,
        denoise,
        x_tn,
        sigma_tn=sigma_tn,
        sigma_t=sigma_t,
        weight_cap=ambient.weight_cap,
        antithetic=ambient.antithetic,
        map_draws=map_draws,
    )
    return jnp.mean(edm_weight(sigma_t, sigma_data=sigma_data) * loss)


def log_normal_law(ambient: Config):
    """The same law on the host, for batches that draw σ_t before the image: (uniform [B], least level) -> σ_t [B]."""

    from scipy.stats import truncnorm  # two seconds that few runs need

    def law(uniform: np.ndarray, sigma_min: float) -> np.ndarray:
        bounds = (np.log([max(sigma_min, 1e-12), ambient.sigma_max]) - ambient.p_mean) / ambient.p_std
        return np.exp(ambient.p_mean + ambient.p_std * truncnorm.ppf(uniform, *bounds))

    return law


def consistency_levels(key, sigma_tn, front, *, max_log_step: float) -> tuple[jax.Array, jax.Array]:
    """Pairs σ_s < σ_t with front <= σ_s, σ_t <= σ_tn: σ_s log-uniform, ln(σ_t/σ_s) uniform in [.3, 1]·max_log_step
    and cut where σ_t would exceed σ_tn.

    Both sides lie anywhere below the data's noise, as theorem 3.3 of arXiv:2404.10177 needs.
    """
    key_s, key_step = jax.random.split(key)
    sigma_s = sigma_tn * (front / sigma_tn) ** jax.random.uniform(key_s, sigma_tn.shape)
    log_step = max_log_step * jax.random.uniform(key_step, sigma_tn.shape, minval=0.3)
    return jnp.minimum(sigma_s * jnp.exp(log_step), sigma_tn), sigma_s


def consistency_term(
    key,
    denoise: DenoiseFn,
    teacher: DenoiseFn,
    x_tn,
    sigma_tn,
    progress,
    *,
    consistency: Config,
    sigma_data: float,
    map_draws=jax.vmap,
) -> jax.Array:
    """mean λ(σ_t)·consistency_loss.

    With anchor "below", x_t is rolled down from real images by the teacher's reverse process, and `progress` in [0, 1]
    lowers the front, the lowest level used, from σ_tn to `sigma_min`: each level learns from the one above it once that
    has settled. With "above", as in the code of the paper, x_t is real noise on real images, σ_t/σ_tn log-uniform in
    [1, e], and σ_s at most `max_log_step` of ln σ lower: few pairs reach below σ_tn. Images with less noise than
    `sigma_min` are left out.
    """
    key_levels, key_roll, key_loss = jax.random.split(key, 3)
    used = sigma_tn > consistency.sigma_min
    sigma_tn = jnp.where(used, sigma_tn, 1.0)
    step = STOCHASTIC_STEPS[consistency.step]
    if consistency.anchor == "above":
        key_t, key_s = jax.random.split(key_levels)
        sigma_t = sigma_tn * jnp.exp(jax.random.uniform(key_t, sigma_tn.shape))
        log_step = consistency.max_log_step * jax.random.uniform(key_s, sigma_tn.shape)
        sigma_s = sigma_t * jnp.exp(-log_step)
        x_t = add_noise(key_roll, x_tn, sigma_s=sigma_tn, sigma_t=sigma_t)
    else:
        front = sigma_tn * (consistency.sigma_min / sigma_tn) ** jnp.maximum(progress, 0.02)
        sigma_t, sigma_s = consistency_levels(key_levels, sigma_tn, front, max_log_step=consistency.max_log_step)
        rolls = jnp.arange(consistency.roll_steps + 1)[:, None] / consistency.roll_steps
        grid = sigma_tn[None] * (sigma_t / sigma_tn)[None] ** rolls
        x_t = jax.lax.stop_gradient(carry_down(key_roll, teacher, x_tn, grid, step=step))
    loss = consistency_loss(
        key_loss,
        denoise,
        x_t,
        sigma_t=sigma_t,
        sigma_s=sigma_s,
        step=step,
        teacher=teacher if consistency.gradient == "low" else None,
        sampler=teacher,
        draws=consistency.draws,
        antithetic=consistency.antithetic,
        ridge=consistency.ridge,
        map_draws=map_draws,
    )
    return jnp.mean(jnp.where(used, edm_weight(sigma_t, sigma_data=sigma_data) * loss, 0.0))


def refresh_term(key, make_denoise, draw, sigma_tn, count: int, *, sigma_min: float, sigma_data: float) -> jax.Array:
    """mean λ(σ)·denoising_loss on posterior draws, σ log-uniform in [sigma_min/2, 1.1·max σ_tn].

    `draw`(key, count) gives them and their labels, which `make_denoise` takes.
    """
    key_rows, key_level, key_loss = jax.random.split(key, 3)
    x_0, label = draw(key_rows, count)
    low, high = sigma_min / 2, jnp.maximum(1.1 * jnp.max(sigma_tn), sigma_min)
    sigma = low * (high / low) ** jax.random.uniform(key_level, (count,))
    loss = denoising_loss(key_loss, make_denoise(labels=label), x_0, sigma_t=sigma)
    return jnp.mean(edm_weight(sigma, sigma_data=sigma_data) * loss)


def in_halves(make_denoise):
    """`make_denoise` for one CPU, with labels and without dropout: its denoisers take large batches of images as two
    halves. XLA gives a small convolution one core, and the other core then has the other half.
    """

    def make(params, *, labels, dropout_key=None) -> DenoiseFn:
        def denoise(x_t, sigma):
            if x_t.shape[0] % 2 or x_t.size // x_t.shape[-1] < LARGE:
                return make_denoise(params, labels=labels, dropout_key=dropout_key)(x_t, sigma)
            halves = zip(*(jnp.split(rows, 2) for rows in (labels, x_t, as_rows(sigma, x_t))), strict=True)
            return jnp.concatenate([make_denoise(params, labels=label)(x, level) for label, x, level in halves])

        return denoise

    return make


def make_objective(
    config: Config,
    make_denoise,
    sigma_data: float,
    *,
    with_consistency: bool = False,
    with_refresh: bool = False,
    mesh: Mesh | None = None,
):
    """The objective (params, teacher_params, key, batch, step, buffer) -> (loss, {name: scalar}).

    The loop uses each term from its start to its stop: without them a step costs less and compiles sooner (a `lax.cond`
    in the step would keep XLA on a CPU from using all cores inside it: 30 times slower). `mesh` has the
    devices over which rows are split; None is one. `buffer` is None without refresh.
    """
    one_cpu = mesh and mesh.size == 1 and mesh.devices.flat[0].platform == "cpu"
    if one_cpu and config.model.network != "mlp" and not config.model.dropout:  # whose masks no device should change
        make_denoise = in_halves(make_denoise)
    map_draws = one_by_one if mesh and mesh.size > 1 else jax.vmap
    consistency, refresh = config.consistency, config.refresh
    every = round(1 / consistency.batch_fraction)  # one row of so many takes part

    def objective(params, teacher_params, key, batch, step, buffer: ReplayBuffer | None = None):
        key_ambient, key_dropout, key_consistency = jax.random.split(key, 3)
        x_tn, sigma_tn, label = batch["x_tn"], batch["sigma_tn"], batch["label"]
        if config.model.class_conditional:
            hidden = jax.random.bernoulli(jax.random.fold_in(key_dropout, 1), config.model.label_dropout, label.shape)
            label = jnp.where(hidden, -1, label)
        dropout_key = key_dropout if config.model.dropout else None
        denoise = make_denoise(params, labels=label, dropout_key=dropout_key)
        ambient = ambient_term(
            key_ambient,
            denoise,
            x_tn,
            sigma_tn,
            batch.get("sigma_t"),
            ambient=config.ambient,
            sigma_data=sigma_data,
            map_draws=map_draws,
        )
        loss, parts = ambient, {"ambient_loss": ambient}

        def share(rows):
            """Every n-th row, one at least: cut within each device's part of the batch, so that the term is split as
            the batch is, if n divides that part."""
            count = max(rows.shape[0] // every, 1)
            return rows[: count * every].reshape(count, -1, *rows.shape[1:])[:, 0]

        if with_consistency:
            since = step - consistency.start
            last = consistency.stop or config.training.steps
            left = max(consistency.anneal * (last - consistency.start), 1.0)
            value = consistency_term(
                key_consistency,
                make_denoise(params, labels=share(label)),  # without dropout: all draws must see one network
                make_denoise(
                    teacher_params if consistency.ema_teacher else jax.lax.stop_gradient(params), labels=share(label)
                ),
                share(x_tn),
                share(sigma_tn),
                jnp.clip(since / left, 0.0, 1.0),
                consistency=consistency,
                sigma_data=sigma_data,
                map_draws=map_draws,
            )
            ramp = jnp.clip((since + 1) / max(consistency.ramp_steps, 1), 0.0, 1.0)
            loss += consistency.weight * ramp * value
            parts["consistency_loss"] = value
        if with_refresh:
            assert buffer is not None  # first_buffer makes one for refresh.weight > 0
            key_refresh = jax.random.fold_in(key, 3)
            value = refresh_term(
                key_refresh,
                partial(make_denoise, params, dropout_key=dropout_key),
                lambda key, count: spread_rows(draw_rows(key, buffer, count), mesh),
                sigma_tn,
                max(round(refresh.batch_fraction * x_tn.shape[0]), 1),
                sigma_min=refresh.sigma_min,
                sigma_data=sigma_data,
            )
            loss += refresh.weight * value
            parts["refresh_loss"] = value
        return loss, {"loss": loss} | parts

    return objective


def terms_at(config: Config, step: int) -> list[str]:
    """The terms below the data's noise, consistency and refresh, that are part of the objective at a step."""
    consistency, refresh = config.consistency, config.refresh
    terms = []
    if consistency.weight and consistency.start <= step < (consistency.stop or step + 1):
        terms.append("consistency")
    if refresh.weight and step >= refresh.start:
        terms.append("refresh")
    return terms


def renews_at(refresh: Config, step: int) -> bool:
    """Whether draws of the buffer are replaced, or weighed, at a step with the term."""
    return step % refresh.every == 0 and not 0 < refresh.stop <= step

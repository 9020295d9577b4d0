"""How often a reverse process calls the network."""

import jax
import jax.numpy as jnp
import numpy as np

from tweedie_diffusion.diffusion.sampling import reverse_process
from tweedie_diffusion.diffusion.types import ReverseStep


def network_calls(step: ReverseStep, sigmas: np.ndarray) -> int:
    """Calls of the denoiser that `reverse_process` makes on a grid [N], counted as it goes: 2(N − 1) + 1 of Heun."""
    calls = []

    def denoise(x, sigma):
        calls.append(sigma)
        return x / 2

    with jax.disable_jit():  # the loop runs as it is written: compiled, its body is traced once
        reverse_process(jax.random.key(0), denoise, jnp.ones((1, 1)), jnp.asarray(sigmas), step=step)
    return len(calls)

import jax
import numpy as np
import pytest

# Set once for all tests: [B, C] + [C] by accident, and one key used for two draws, are errors.
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", True)


@pytest.fixture
def rng():
    return np.random.default_rng(0)

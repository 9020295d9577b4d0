import os

import jax
import numpy as np
import pytest

# Set once for all tests: [B, C] + [C] by accident, and one key used for two draws, are errors.
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", True)
# Tests compile much and run little.
jax.config.update("jax_disable_most_optimizations", True)
# Programs that tests run need not start twice to have large pages (program.py).
os.environ.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(tmp_path_factory):
    """What one test compiled, the next one reads: many train the same small network."""
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.getbasetemp().parent / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)

import pytest

from tweedie_diffusion.training import loop
from tweedie_diffusion.training.config import default_config
from tweedie_diffusion.training.workdir import write_curve


def patch_results(patch):
    """Neither scores nor pictures, which are most of what a small run compiles."""
    nothing = {"sigma": [], "relative_mse": []}
    patch.setattr(loop, "held_out_health", lambda *_: {})
    patch.setattr(loop, "held_out_curve", lambda *_: nothing)
    patch.setattr(loop, "scored_pictures", lambda *_: {})
    patch.setattr(loop, "write_results", lambda workdir, *_: write_curve(workdir, nothing))


@pytest.fixture
def only_training():
    """`patch_results`."""
    with pytest.MonkeyPatch.context() as patch:
        patch_results(patch)
        yield


def small_config():
    """Twelve steps of a small MLP on the 2-D mixture, half of them with the consistency term."""
    config = default_config()
    config.data.source = "mixture_2d"
    config.data.num_examples = 600
    config.data.sigma_tn = 0.3
    config.model.network = "mlp"
    config.model.width = 16
    config.model.depth = 1
    config.training.steps = 12
    config.training.batch_size = 32
    config.training.warmup_steps = 2
    config.training.log_every = 3
    config.training.save_every = 6
    config.consistency.start = 6
    config.consistency.ramp_steps = 2
    config.sampling.num_steps = 4
    config.evaluation.sigmas = (0.1, 0.5)
    config.evaluation.num_images = 64
    return config


@pytest.fixture
def config():
    """`small_config`."""
    return small_config()

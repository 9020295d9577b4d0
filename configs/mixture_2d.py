"""Eight Gaussians on the unit circle, seen through noise of σ = 0.3: data whose exact denoiser is known.

    python -m tweedie_diffusion.main --config=configs/mixture_2d.py --workdir=runs/mixture

5 minutes on one CPU core. Excess at σ = .03/.06/.1/.2/.3, by `experiments.exactness`: .016/.037/.074/.024/.002, the
mean of seeds 0 to 2 (2026-11-24; experiments/README.md).
`denoising_curve.json` holds MSE/σ² of the run and of the exact denoiser, and the excess ‖denoise − exact‖² over the
posterior variance.
"""

from tweedie_diffusion.training.config import default_config


def get_config(variant: str = ""):
    config = default_config()
    config.data.source = "mixture_2d"
    config.data.num_examples = 200_000
    config.data.sigma_tn = 0.3
    config.data.held_out = 0.02

    config.model.network = "mlp"
    config.model.width = 128
    config.model.depth = 3
    config.model.fourier_features = 64
    config.model.fourier_scale = 3.0

    config.training.steps = 5000
    config.training.batch_size = 1024
    config.training.learning_rate = 2e-3
    config.training.ema_decay = 0.999
    config.training.log_every = 250
    config.training.save_every = 1000

    config.ambient.weight_cap = 1000.0
    config.ambient.near_fraction = 0.7
    config.ambient.antithetic = True
    config.consistency.weight = 0.0
    config.refresh.weight = 1.0
    config.refresh.start = 2500
    config.refresh.stop = 6000  # the most likely weights of finitely many points follow their noise
    config.refresh.capacity = 16_384
    config.refresh.rows = 0
    config.refresh.num_steps = 16
    config.refresh.sigma_min = 0.02
    config.refresh.relaxation = 1.8
    config.refresh.every = 4
    config.refresh.batch_fraction = 0.25

    config.evaluation.sigmas = (0.03, 0.06, 0.1, 0.2, 0.3, 0.5, 1.0)
    config.evaluation.num_images = 4000

    if variant == "quick":
        config.data.num_examples = 20_000
        config.training.steps = 600
        config.training.batch_size = 512
        config.training.save_every = 300
        config.refresh.start = 400
        config.refresh.stop = 0
        config.refresh.capacity = 4096
    elif variant:
        raise ValueError(f"unknown variant {variant!r}: use mixture_2d.py or mixture_2d.py:quick")
    return config

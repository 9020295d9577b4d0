"""CIFAR-10 (32×32, colour) seen through noise of σ = 0.2, with the hyper-parameters of EDM.

    python -m tweedie_diffusion.main --config=configs/cifar10_noisy.py --workdir=runs/cifar10

Needs the TFDS data set cifar10, prepared once, and accelerators: 400 000 steps of 512 images are EDM's 200 million
images over 8 GPUs (Karras et al. 2022, table 7); the batch is split over all devices there are. Not yet run at full
length here: no number is claimed.
"""

from tweedie_diffusion.training.config import default_config


def get_config(variant: str = ""):
    config = default_config()
    config.data.source = "tfds:cifar10"
    config.data.sigma_tn = 0.2
    config.data.held_out = 0.02
    config.data.flip = True

    config.model.channels = 128  # DDPM++ of EDM: 55.7 million weights
    config.model.channel_multipliers = (2, 2, 2)
    config.model.blocks_per_resolution = 4
    config.model.attention_resolutions = (16,)
    config.model.dropout = 0.13
    config.model.dtype = "bfloat16"
    config.model.noise_units = True
    config.model.patch_components = 64
    config.model.patch_side = 3

    config.training.steps = 400_000
    config.training.batch_size = 512
    config.training.learning_rate = 1e-3
    config.training.warmup_steps = 20_000  # 10 million images
    config.training.ema_decay = 0.9993  # half-life of half a million images
    config.training.log_every = 100
    config.training.save_every = 5000

    config.consistency.start = 200_000
    config.consistency.ramp_steps = 10_000
    config.consistency.sigma_min = 0.04  # what lies below carries over from above by the network alone
    config.sampling.sigma_min = 0.002

    if variant == "quick":
        config.model.channels = 32
        config.model.channel_multipliers = (1, 2)
        config.model.blocks_per_resolution = 1
        config.model.attention_resolutions = ()
        config.model.dropout = 0.0
        config.model.dtype = "float32"
        config.training.steps = 400
        config.training.batch_size = 32
        config.training.warmup_steps = 50
        config.training.ema_decay = 0.99
        config.training.save_every = 200
        config.consistency.start = 200
        config.consistency.ramp_steps = 50
    elif variant:
        raise ValueError(f"unknown variant {variant!r}: use cifar10_noisy.py or cifar10_noisy.py:quick")
    return config

"""CelebA faces (64×64, colour) seen through noise of σ = 0.2, with the hyper-parameters of EDM for FFHQ 64×64.

    python -m tweedie_diffusion.main --config=configs/celeba_noisy.py --workdir=runs/celeba

Needs the TFDS data set celeb_a, prepared once, and accelerators (Karras et al. 2022, table 7: batch 256, learning rate
2e-4, 200 million images; the batch is split over all devices there are). Not yet run at full length here: no number is
claimed.
"""

from tweedie_diffusion.training.config import default_config


def get_config(variant: str = ""):
    config = default_config()
    config.data.source = "tfds:celeb_a"
    config.data.sigma_tn = 0.2
    config.data.image_size = 64  # of the central square of 178×178
    config.data.held_out = 0.01
    config.data.flip = True

    config.model.channels = 128  # DDPM++ of EDM for 64×64
    config.model.channel_multipliers = (1, 2, 2, 2)
    config.model.blocks_per_resolution = 4
    config.model.attention_resolutions = (16,)
    config.model.dropout = 0.05
    config.model.dtype = "bfloat16"
    config.model.noise_units = True
    config.model.patch_components = 64
    config.model.patch_side = 3

    config.training.steps = 800_000
    config.training.batch_size = 256
    config.training.learning_rate = 2e-4
    config.training.warmup_steps = 40_000  # 10 million images
    config.training.ema_decay = 0.9996  # half-life of half a million images
    config.training.log_every = 100
    config.training.save_every = 10_000

    config.consistency.start = 400_000
    config.consistency.ramp_steps = 20_000
    config.consistency.sigma_min = 0.04  # what lies below carries over from above by the network alone
    config.sampling.num_steps = 40
    config.sampling.sigma_min = 0.002

    if variant == "quick":
        config.model.channels = 32
        config.model.channel_multipliers = (1, 2, 2)
        config.model.blocks_per_resolution = 1
        config.model.attention_resolutions = ()
        config.model.dropout = 0.0
        config.model.dtype = "float32"
        config.training.steps = 400
        config.training.batch_size = 16
        config.training.warmup_steps = 50
        config.training.ema_decay = 0.99
        config.training.save_every = 200
        config.consistency.start = 200
        config.consistency.ramp_steps = 50
    elif variant:
        raise ValueError(f"unknown variant {variant!r}: use celeba_noisy.py or celeba_noisy.py:quick")
    return config

"""Your own noisy images: a folder of them, a pattern like 'scans/**/*.tif', a .tar archive, an .npz or an .npy.

    python -m tweedie_diffusion.inspect_data path/to/images
    python -m tweedie_diffusion.main --config=configs/folder_noisy.py --workdir=runs/mine \
        --config.data.source=path/to/images

The first command says what their noise is, and which settings to change here. As it is, the noise is estimated, values
are scaled by their percentiles, and squares of 64 pixels are cut from images of any size. Files that cannot be used are
named. 100 000 steps need an accelerator; `:quick` is a small network for a first look on a CPU, `:256` a large one on
squares of 256 pixels for several accelerators (widths of ADM, Dhariwal and Nichol 2021; not yet run at full length).
"""

from tweedie_diffusion.training.config import default_config


def get_config(variant: str = ""):
    config = default_config()
    config.data.source = "path/to/images"
    config.data.noisy_already = True
    config.data.sigma_from = "auto"
    config.data.range_percentiles = (0.1, 99.9)
    config.data.crop = 64
    config.data.flip = True
    config.data.held_out = 0.1

    config.model.channels = 64
    config.model.channel_multipliers = (1, 2, 2)
    config.model.blocks_per_resolution = 2
    config.model.attention_resolutions = ()
    config.model.noise_units = True
    config.model.patch_components = 64
    config.model.patch_side = 3

    config.training.steps = 100_000
    config.training.batch_size = 64
    config.training.learning_rate = 5e-4
    config.training.warmup_steps = 2000
    config.training.ema_decay = 0.9995
    config.training.log_every = 100
    config.training.save_every = 5000

    config.ambient.near_fraction = 0.25
    config.consistency.start = 50_000
    config.consistency.ramp_steps = 2000
    config.consistency.sigma_min = 0.02
    config.sampling.num_steps = 32

    if variant == "quick":
        config.data.crop = 32
        config.model.channels = 32
        config.model.channel_multipliers = (1, 2)
        config.model.blocks_per_resolution = 1
        config.training.steps = 600
        config.training.batch_size = 32
        config.training.learning_rate = 1e-3
        config.training.warmup_steps = 50
        config.training.ema_decay = 0.99
        config.training.log_every = 50
        config.training.save_every = 300
        config.consistency.start = 300
        config.consistency.ramp_steps = 50
        config.sampling.num_steps = 18
    elif variant == "256":
        config.data.crop = 256
        config.model.channels = 128
        config.model.channel_multipliers = (1, 1, 2, 2, 4, 4)
        config.model.attention_resolutions = (16,)
        config.model.dtype = "bfloat16"
        config.model.remat = True
        config.training.batch_size = 256
        config.training.learning_rate = 1e-4
        config.training.ema_decay = 0.9999
    elif variant:
        raise ValueError(
            f"unknown variant {variant!r}: use folder_noisy.py, folder_noisy.py:quick or folder_noisy.py:256"
        )
    return config

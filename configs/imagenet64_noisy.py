"""ImageNet at 64×64 (colour) seen through noise of σ = 0.2, with the hyper-parameters of EDM for it.

    python -m tweedie_diffusion.main --config=configs/imagenet64_noisy.py --workdir=runs/imagenet64

Needs the TFDS data set downsampled_imagenet/64x64, prepared once, or a folder or .tar shards of images of 64 pixels and
more (--config.data.source='shards/*.tar' --config.data.image_size=64), and accelerators: 2.5 billion images at batch
4096 in the paper of EDM (Karras et al. 2022, table 7), here 600 000 steps of 1024. Not yet run at full length here: no
number is claimed.
"""

from configs import celeba_noisy


def get_config(variant: str = ""):
    config = celeba_noisy.get_config(variant)
    config.data.source = "tfds:downsampled_imagenet/64x64"
    config.data.image_size = 0
    config.data.held_out = 0.005
    if variant == "":
        config.model.channels = 192
        config.model.channel_multipliers = (1, 2, 3, 4)
        config.model.blocks_per_resolution = 3
        config.model.attention_resolutions = (32, 16, 8)
        config.model.dropout = 0.1
        config.training.steps = 600_000
        config.training.batch_size = 1024
        config.training.learning_rate = 1e-4
        config.training.warmup_steps = 10_000
        config.training.ema_decay = 0.9999
        config.consistency.start = 300_000
    return config

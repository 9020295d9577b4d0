"""Photon counts, as of a confocal microscope: noise that grows with the signal (Poisson), stabilised before training.

    python -m tweedie_diffusion.inspect_data path/to/stacks
    python -m tweedie_diffusion.main --config=configs/microscopy_noisy.py --workdir=runs/microscopy \
        --config.data.source=path/to/stacks --config.data.photons='(4.1, 3.3, 0.0)'

The first command estimates the gain, and an offset that stands for read noise too, in stored values. Every page of a
TIFF is an image. The generalised Anscombe transform gives them noise of one level from a few photons on; `denoise` and
`sample` answer in the stored units, by its exact unbiased inverse. Network and budget are those of folder_noisy.py.
"""

from configs import folder_noisy


def get_config(variant: str = ""):
    config = folder_noisy.get_config(variant)
    config.data.source = "path/to/stacks"
    config.data.sigma_from = ""  # the transform makes it 1
    config.data.photons = (1.0, 0.0, 0.0)  # gain, offset, read noise: take those of inspect_data
    config.data.turn = True  # a specimen has no upright
    return config

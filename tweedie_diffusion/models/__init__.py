"""Floor 1: networks (flax.linen) and the preconditioning that turns one into a denoiser."""

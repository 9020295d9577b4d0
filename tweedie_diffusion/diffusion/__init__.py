"""Floor 0: the mathematics, on jax arrays alone."""

"""Floor 4: state, step, checkpoints, the loop."""

"""Floor 3: curves and pictures."""

"""Floor 3: curves, distances and pictures."""

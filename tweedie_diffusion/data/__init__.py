"""Floor 2: where images come from, and what their noise is."""

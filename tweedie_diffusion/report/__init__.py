"""Floor 6: what trained runs are, side by side, in one table and one picture."""

"""What a trained run is worth: numbers, words and a page."""

"""One training run from start to end."""

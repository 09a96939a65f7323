"""Videos: run, smoothing and flicker, written file."""

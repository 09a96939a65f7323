"""Time and memory of one model at one task; used by `bench` and `compare`."""

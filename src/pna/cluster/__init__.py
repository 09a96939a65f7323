"""Many images on many machines: Ray distributes them over replicas of one model."""

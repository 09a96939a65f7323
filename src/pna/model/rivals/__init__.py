"""Other ways of refining a segmentation, each from its paper, each one file."""

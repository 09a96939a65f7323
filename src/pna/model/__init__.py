"""The model: encoder, coarse head, aggregation, and the segmenter that wires them."""

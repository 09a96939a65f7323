"""Refinement of probabilities, masks and features: filters, and networks of any classes."""

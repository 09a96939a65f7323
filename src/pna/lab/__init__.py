"""The lab measures the library: baselines, comparisons, benchmarks, recipes of the paper.

It imports the library and is never imported by it.
"""

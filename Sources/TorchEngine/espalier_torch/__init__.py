"""The PyTorch engine of Espalier: the same plans, runs, checkpoints and random numbers as the native engine."""

__version__ = "0.1.0"

GENERATOR = "philox4x32-10"
"""Name of the random generator in checkpoints and in run.json (docs/random.md)."""

"""Training: start reading with `loop.py`; setup, steps and checkpoints are in the other modules."""

"""Training: `loop.py` reads from top to bottom; what it sets up, steps through and writes lies beside it."""

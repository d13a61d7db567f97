"""Checkpoints, where to go on from, and what must be the same."""

"""EntroDrop, its controls and its baselines: one method a file."""

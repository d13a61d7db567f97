"""Resuming: checkpoints, the state that they keep, and the checks that a resumed run is the same run."""

"""Statistics of the records: pure functions on arrays, numpy and scipy only."""

"""Statistics of the records: pure functions on arrays, numpy and scipy only.

Docstrings name the axes of arrays by one letter each, here and in `dynamics.records`:

====  ============================================================
S     sequences, those that are recorded
P     positions in a sequence, the block size
E     recorded epochs; 0 is before training
D     documents that have a token
K     buckets, groups or bins of tokens
M     seeds of an arm, one trained model each
C     classes of trajectories
R     resamples
N     predicted tokens
Q     any shape of estimates: (K,), (E, K) or ()
====  ============================================================
"""

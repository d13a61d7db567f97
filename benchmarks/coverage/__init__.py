"""How often intervals cover the truth, and tests find what is not there: simulated studies, `python -m benchmarks.coverage`."""

"""How often intervals cover the truth and tests find what is not there: `python -m benchmarks.coverage`."""

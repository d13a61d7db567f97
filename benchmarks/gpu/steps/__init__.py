"""The steps, one a file: `run(where)` measures, checks, and returns both."""

"""What a machine with a CUDA device is asked: every claim about it, proved and measured by one command.

Run `python -m benchmarks.gpu` (at most eight minutes on one H100 or H200), or with `--device cpu --tiny` to see that the
script runs.
"""

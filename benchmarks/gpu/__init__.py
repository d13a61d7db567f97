"""What a machine with a CUDA device is asked: every claim about it, proved and measured by one command.

    python -m benchmarks.gpu                        # at most eight minutes on one H100 or H200
    python -m benchmarks.gpu --device cpu --tiny    # the same script at tiny sizes: does it run?
"""

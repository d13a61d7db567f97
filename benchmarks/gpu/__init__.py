"""What a machine with a CUDA device is asked: every claim about it, proved and measured by one command."""

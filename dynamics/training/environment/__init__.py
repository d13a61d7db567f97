"""What a process runs in: transformers' arguments, hardware, other processes, generators, signals."""

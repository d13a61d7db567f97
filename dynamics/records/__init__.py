"""What a run leaves on disk: its formats, how it is written, read and checked. Never loads torch."""

"""The figures, one family a file."""

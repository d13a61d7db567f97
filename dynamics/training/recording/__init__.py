"""Writing records: clean values, epochs, the run directory."""

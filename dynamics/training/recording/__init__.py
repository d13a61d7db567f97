"""What is written: clean values, epochs, the run directory."""

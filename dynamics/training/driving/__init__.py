"""What drives the loop: a Trainer, through a callback, with its data sets; or your own loop."""

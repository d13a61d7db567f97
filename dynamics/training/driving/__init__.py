"""Who calls the loop: the Trainer, by a callback; and where a Trainer's data sets are read for it."""

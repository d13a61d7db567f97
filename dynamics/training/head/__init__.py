"""A model's head: losses straight from hidden states, what comes after it, and whether the model's loss holds more."""

"""A model's head: losses directly from hidden states, checks of the head, and the model's own loss."""

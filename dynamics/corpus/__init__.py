"""From a corpus to packed sequences of tokens."""

"""One arm against another, and many comparisons at once."""

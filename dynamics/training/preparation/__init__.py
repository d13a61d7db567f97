"""A recipe's starting point: documents, starting model, reference pass."""

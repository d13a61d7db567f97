"""The tokens of a batch: the data set's order, the layout of rows, sequences and their index."""

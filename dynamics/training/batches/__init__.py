"""Which tokens a batch holds: the data set's order, the layout of rows, sequences and their index."""

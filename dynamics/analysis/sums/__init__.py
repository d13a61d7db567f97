"""From the records to sums per document, and from those to curves over epochs; arms keep theirs."""

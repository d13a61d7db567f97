"""A study's sums by document, small enough to be committed: files, what they tell, reading and checking them."""

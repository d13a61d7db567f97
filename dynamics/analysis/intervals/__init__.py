"""Intervals from resampling: of documents, of halves for the cross-fitted rebound, of seeds and documents."""

"""What tokens are before they are summed: the records as the analysis reads them, buckets, pools, trajectories."""

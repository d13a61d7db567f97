"""A whole run for other tools: Parquet and zarr."""

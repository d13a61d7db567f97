"""Tensor operations. They depend only on torch, and on the cache that remembers which matrix product is faster."""

from dynamics.ops.linear_statistics import LinearTokenStatistics, linear_token_statistics
from dynamics.ops.routes import chosen_routes, restore_routes

__all__ = ["LinearTokenStatistics", "chosen_routes", "linear_token_statistics", "restore_routes"]

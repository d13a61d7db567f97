"""Tensor operations that depend on torch alone, and on the cache for which route of theirs is fast here."""

from dynamics.ops.linear_statistics import LinearTokenStatistics, linear_token_statistics
from dynamics.ops.routes import chosen_routes, restore_routes

__all__ = ["LinearTokenStatistics", "chosen_routes", "linear_token_statistics", "restore_routes"]

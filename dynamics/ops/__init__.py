"""Tensor operations that depend on torch alone."""

from dynamics.ops.linear_statistics import LinearTokenStatistics, linear_token_statistics

__all__ = ["LinearTokenStatistics", "linear_token_statistics"]

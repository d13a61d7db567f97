"""Tensor operations that depend on torch alone."""

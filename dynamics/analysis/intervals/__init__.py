"""Contributions of seeds and documents, choices made elsewhere than they are measured, and intervals from both."""

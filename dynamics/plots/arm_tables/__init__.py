"""The table of arms: its numbers, and as LaTeX, Markdown and text."""

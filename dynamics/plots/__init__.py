"""Figures. Styles apply inside a context, never on import."""

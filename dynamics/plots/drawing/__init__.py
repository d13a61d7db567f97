"""What all figures share: style, labels, panels, lines."""

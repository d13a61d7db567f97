"""The token explorer: one self-contained page that shows the text of a run, token by token and epoch by epoch."""

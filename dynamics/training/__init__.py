"""Training with recording. The only package that knows the Trainer."""

"""What is asked of an arm, each answer with its interval: one question a file."""

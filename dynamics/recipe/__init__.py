"""What a user writes: settings, their reading, named sizes, studies and arms. Never loads torch."""

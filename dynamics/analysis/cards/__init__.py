"""What a run and a study say of themselves: cards and tables, made when they are shown."""

"""The environment of a process: TrainingArguments, hardware, other ranks, random generators, signals."""

"""What is known about a model: its files, shape, parameters and context."""

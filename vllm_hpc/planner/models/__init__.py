"""What is known of a model: its files, its shape, its parameters, its context."""

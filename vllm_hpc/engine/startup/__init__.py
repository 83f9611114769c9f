"""From torchrun's variables to an engine that is ready."""

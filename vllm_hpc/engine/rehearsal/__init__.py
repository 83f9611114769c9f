"""The built-in engine of a rehearsal."""

"""Input and output rows: every input format, and the checks of a row."""

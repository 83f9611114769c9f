"""A job is a folder: its files, its records, its input and its shards."""

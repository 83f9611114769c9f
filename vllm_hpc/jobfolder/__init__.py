"""The job folder: its files, records, input and shards."""

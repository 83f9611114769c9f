"""A rank's health and records: heartbeats, the rank's record, the watchdog, the shard writer."""

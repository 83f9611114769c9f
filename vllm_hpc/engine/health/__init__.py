"""Whether a rank lives, and what it says of itself: heartbeats, records, the watchdog, the shard writer."""

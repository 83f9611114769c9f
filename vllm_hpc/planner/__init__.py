"""Plans a job: which layout and engine settings, whether it fits, how long it takes."""

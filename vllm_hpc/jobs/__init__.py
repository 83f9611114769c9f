"""The life of a job, from submission to results: submit, status, cancel, resume, collect."""

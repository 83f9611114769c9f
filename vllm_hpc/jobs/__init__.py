"""A job from its submission to its results: submit, status, cancel, resume, collect."""

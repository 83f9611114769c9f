"""Finds a user's own code where the job is submitted. Nothing of it is imported: what must be known is read from it."""

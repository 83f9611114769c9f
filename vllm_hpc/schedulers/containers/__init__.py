"""Containers: the words that run a job's ranks in an image, for each runtime (docs/containers.md)."""

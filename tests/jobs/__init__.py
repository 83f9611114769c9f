"""Tests of a job from submit to results."""

"""Tests of what people use from Python."""

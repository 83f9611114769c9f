"""Forty faults made by hand, to see which of them the tests catch."""

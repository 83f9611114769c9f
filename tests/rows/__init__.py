"""Tests of rows and input formats."""

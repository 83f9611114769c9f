"""Tests of what a rank runs."""

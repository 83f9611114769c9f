"""Tests of whole jobs on the local scheduler."""

"""Tests of request, profile and the values in them."""

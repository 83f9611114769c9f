"""Rows in and out: every input format, and what a row must look like."""

"""The rank loop: rows claimed, fed, stepped in lockstep, and written."""

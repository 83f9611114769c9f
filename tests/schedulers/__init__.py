"""Tests of scripts, launchers and what schedulers answer."""

"""Kill a real job again and again, at random: is a row lost, twice or wrong? ``python -m tests.campaign`` says.

A seed fixes which moment, target and signal each kill is to have; what the machine does in between is its own.
"""

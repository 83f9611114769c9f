"""Slurm, PBS and local: scripts, submission, states; launchers; the commands that scripts call."""

"""Slurm, PBS and local: scripts, submission, states; the launchers; what a script calls."""

"""Answers that were given before, or are being made for someone else."""

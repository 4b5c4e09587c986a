"""Checkpoints: whole or absent, the newest whole one found again, the last finished step kept."""

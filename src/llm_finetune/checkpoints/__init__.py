"""Checkpoints: written completely or not at all, verified before use, rotated, and saved on interruption."""

"""A tuned model in forms that other programs read."""

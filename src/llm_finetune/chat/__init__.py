"""Chat: a tuned model answers at the terminal, or line by line in a pipe."""

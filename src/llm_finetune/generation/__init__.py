"""Generation: prompts in, tokens and text out. The one decode loop for everything that answers."""

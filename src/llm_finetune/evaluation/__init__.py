"""How good a model is: perplexity on held-out records, and samples beside their references."""

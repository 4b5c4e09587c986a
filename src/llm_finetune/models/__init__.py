"""Base model and adapters: from a name to weights that are ready to train."""

"""How the outputs for a batch become a loss: one objective a module; `base` says what they share."""

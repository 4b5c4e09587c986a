"""Code of our own for the processor at hand: compiled on it, and proved on the model before it is used."""

"""Native kernels for training and inference: compiled on this machine, verified on the model before use."""

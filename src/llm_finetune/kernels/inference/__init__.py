"""Kernels of our own in C, for processors with AVX-512 and bf16: packed weights, and a whole decode step."""

"""Attention, head, layers and adapters made for a CPU, each proved equal to the plain way."""

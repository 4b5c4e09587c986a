"""The machine: its processor, memory, network and limits."""

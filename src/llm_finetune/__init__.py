"""Fine-tunes open language models on CPUs, from one values file."""

__version__ = "0.1.0"  # Stands here alone; tests/test_version.py holds what cannot read it against it.

"""Fine-tunes open language models on CPUs, from one values file."""

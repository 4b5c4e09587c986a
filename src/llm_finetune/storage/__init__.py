"""Files and folders on a volume: written whole or not at all, locked, and what is said where that fails."""

"""Files and folders on a volume: written whole or not at all, locked, and the errors where that fails."""

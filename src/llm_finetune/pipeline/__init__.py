"""A job from its settings to its results: the stages in order, and who waits for whom."""

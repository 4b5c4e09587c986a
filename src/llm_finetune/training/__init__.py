"""Training: the loop, its progress, what it needs of memory, and how it is interrupted and resumed."""

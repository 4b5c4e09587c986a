"""How the outputs for a record become a loss. One objective today: supervised next-token prediction."""

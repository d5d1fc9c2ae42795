"""The servers' domain service: products of what hosts say about themselves, pushed by their agents."""

"""The agent: runs at the source, and collects, seals, spools and pushes what the source tells."""

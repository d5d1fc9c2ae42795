"""The sealed batch: made by its source, verified by every consumer, linked into a chain."""

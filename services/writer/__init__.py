"""The batch layer: every product into one database."""

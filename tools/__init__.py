"""Programs for development; nothing here is installed."""

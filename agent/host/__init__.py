"""What a host's files and tables say, parsed for the collectors that share it."""

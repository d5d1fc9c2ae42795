"""A domain service: its descriptors and its policy, served. Everything here is generic."""

"""The platform's domain service: products of what the mesh says about itself, pushed by every process."""

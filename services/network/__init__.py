"""The network's domain service: products of what routers and switches tell, pushed by their sources."""

"""The gateway: it catalogs data products, routes typed calls and fans streams out. It keeps no state."""

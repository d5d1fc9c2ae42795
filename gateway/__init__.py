"""The gateway: it catalogues data products, routes typed calls and fans streams out. It keeps no state."""

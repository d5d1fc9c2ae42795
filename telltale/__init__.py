"""Telltale's kit: what every process of the mesh shares. It imports no process."""

__version__ = "0.1.0"

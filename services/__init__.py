"""The services of the mesh: one directory, one owning team."""

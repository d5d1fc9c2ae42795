"""The producing end of the mesh: records are sealed, spooled durably, and pushed until they are acked."""

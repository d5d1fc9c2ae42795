"""How people log in: an external provider's word for who they are becomes a session of this mesh."""

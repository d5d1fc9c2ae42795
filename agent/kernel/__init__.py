"""What the kernel tells the agent: netlink sockets and `/proc`, read apart from parsed."""

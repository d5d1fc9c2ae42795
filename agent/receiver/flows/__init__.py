"""From datagrams of NetFlow v5 and v9, IPFIX and sFlow v5 to records of network.flows."""

"""The collectors of the network domain, one a data product."""

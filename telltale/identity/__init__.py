"""Who a process is: keys, certificates, trust bundles, tokens, and the life of an identity."""

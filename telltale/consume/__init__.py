"""The consuming end: a verified subscription through the gateway, schemas by digest, records as columns."""

"""The receiver: devices that cannot run an agent send to it, and it seals what they say as observed."""

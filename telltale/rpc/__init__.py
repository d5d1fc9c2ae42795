"""Servers and channels: mTLS, who calls, limits, errors as statuses, health."""

"""The fault campaign: real processes under load are killed, stalled, cut off; nothing acked may be lost."""

"""The rules that detections are made of; each is used by declaring its numbers."""

"""Masks secrets in what processes were called with, before anything is sealed."""

from agent.masking.arguments import mask_arguments, mask_text

__all__ = ["mask_arguments", "mask_text"]

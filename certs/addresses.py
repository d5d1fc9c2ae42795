"""Where newcomers find what they need."""

from dataclasses import dataclass


@dataclass
class Addresses:
    """As host:port; empty where this authority was not told."""

    authority: str = ""
    enrollment: str = ""
    service: str = ""
    gateway: str = ""

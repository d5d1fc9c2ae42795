"""Settings of the writer."""

from pathlib import Path

from pydantic import Field

from telltale.settings import IdentitySettings, Patterns


class WriterSettings(IdentitySettings):
    """Where the writer reads, where it stores, and how often it commits."""

    gateway: str = Field(description="host:port of the gateway.")
    platform: str = Field(description="host:port of the platform's domain service, for self-metrics.")
    database: Path = Field(description="SQLite file that the writer keeps; others may read it.")
    listen: str = Field("127.0.0.1:0", description="host:port of the health service.")
    products: Patterns = Field(("*",), description="Products or patterns to store, separated by commas.")
    commit_seconds: float = Field(
        0.2, gt=0.0, le=10.0, description="Longest time that a batch waits for others to be committed with."
    )
    commit_bytes: int = Field(
        16 << 20, ge=1 << 20, le=1 << 30, description="Bytes of batches after which a commit waits no longer."
    )
    catalog_seconds: float = Field(
        10.0,
        gt=0.0,
        le=86_400.0,
        description="Pause between two looks for products that are new on the mesh.",
    )
    retention_seconds: float = Field(
        60.0, gt=0.0, le=86_400.0, description="Pause between two removals of what is past its retention."
    )

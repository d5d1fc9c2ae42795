"""When a detection speaks. Each threshold is documented in docs/detection.md."""

from dataclasses import dataclass
from datetime import timedelta

from pydantic import Field, model_validator

from telltale.settings import Settings


@dataclass(frozen=True)
class Limit:
    """A limit with hysteresis: raised at or above one value for some time, cleared below another."""

    raise_at: float
    clear_at: float
    hold: timedelta


class Thresholds(Settings):
    """When a detection speaks."""

    disk_ratio: float = Field(0.90, gt=0, le=1, description="Share of a filesystem in use that is a finding.")
    disk_full_ratio: float = Field(0.97, gt=0, le=1, description="Share in use that is as good as full.")
    disk_margin: float = Field(
        0.02, ge=0, lt=1, description="How far a filesystem's share in use must fall below to end a finding."
    )
    disk_hold_seconds: float = Field(60, ge=0, description="How long it must stay there.")
    memory_ratio: float = Field(0.95, gt=0, le=1, description="Share of memory in use that is a finding.")
    memory_margin: float = Field(
        0.05, ge=0, lt=1, description="How far the share of memory in use must fall below to end a finding."
    )
    memory_hold_seconds: float = Field(120, ge=0, description="How long it must stay there.")
    silence_factor: float = Field(
        3.0,
        gt=0,
        description="Multiple of a product's promised freshness after which a source is silent; "
        "below 1 for drills only.",
    )
    hole_grace_seconds: float = Field(
        60, gt=0, description="How long a source may take to declare batches that its chain lacks."
    )
    forget_seconds: float = Field(
        604_800, gt=0, description="Silence after which a source's state is dropped."
    )

    @model_validator(mode="after")
    def _in_order(self) -> "Thresholds":
        if self.disk_margin >= self.disk_ratio or self.memory_margin >= self.memory_ratio:
            raise ValueError("a margin must be smaller than its ratio, or the finding never ends")
        return self

    @property
    def disk(self) -> Limit:
        return Limit(
            self.disk_ratio, self.disk_ratio - self.disk_margin, timedelta(seconds=self.disk_hold_seconds)
        )

    @property
    def disk_full(self) -> Limit:
        return Limit(self.disk_full_ratio, self.disk_full_ratio - self.disk_margin, timedelta(0))

    @property
    def memory(self) -> Limit:
        return Limit(
            self.memory_ratio,
            self.memory_ratio - self.memory_margin,
            timedelta(seconds=self.memory_hold_seconds),
        )

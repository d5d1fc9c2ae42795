"""Settings of the process: those of a domain service, the thresholds, and what it reads."""

from pydantic import Field

from services.analysis.thresholds import Thresholds
from telltale.domain.service import DomainSettings


class AnalysisSettings(DomainSettings, Thresholds):
    """Settings of the analysis service."""

    products: list[str] = Field(
        ["*"], min_length=1, max_length=64, description="Products or patterns that are analysed, in JSON."
    )
    tick_seconds: float = Field(5, gt=0, description="How often silence is looked for and ends are told.")

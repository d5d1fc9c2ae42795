"""Settings of the process: those of a domain service, the thresholds, and what it reads."""

from pydantic import Field

from services.analysis.thresholds import Thresholds
from telltale.domain.service import DomainSettings
from telltale.settings import Patterns


class AnalysisSettings(DomainSettings, Thresholds):
    """Settings of the analysis service."""

    products: Patterns = Field(("*",), description="Products or patterns to analyse, separated by commas.")
    commit_seconds: float = Field(
        0.5, gt=0, le=10, description="Longest time that a batch waits for others to be analysed with."
    )
    tick_seconds: float = Field(5, gt=0, description="How often silence is looked for and ends are told.")

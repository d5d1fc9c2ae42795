"""Settings of the process: those of a domain service, the thresholds, and what it reads."""

from pydantic import Field

from services.analysis.thresholds import Thresholds
from telltale.domain.service import DomainSettings


class AnalysisSettings(DomainSettings, Thresholds):
    """Settings of the analysis service."""

    products: str = Field("*", description="Products or patterns to analyse, separated by commas.")
    tick_seconds: float = Field(5, gt=0, description="How often silence is looked for and ends are told.")

    @property
    def patterns(self) -> tuple[str, ...]:
        """The products to subscribe to."""
        return tuple(part.strip() for part in self.products.split(",") if part.strip())

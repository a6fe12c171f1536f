"""The numbers of one metric in one row, with where each is from, and why others are missing."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Source:
    """The number of one seed and its provenance."""

    run: str
    seed: int
    metric: str
    stages: dict[str, str]
    """Stage -> key, of the jobs that made the number."""
    code: str
    value: float
    scoring: str | None = None
    """How images were scored, if they were; numbers that were scored differently are not compared."""


@dataclass
class Samples:
    """The numbers of one metric in one row."""

    sources: list[Source] = field(default_factory=list)
    """One per measurement, in the order of the seeds; seeds that share their jobs share a measurement."""
    missing: dict[int, str] = field(default_factory=dict)
    """Seed -> why its number is missing."""
    idle: bool = False
    """Whether the number cannot exist: given images, for example, have no training."""

    @property
    def scorings(self) -> set[str]:
        """How the images behind these numbers were scored."""
        return {source.scoring for source in self.sources if source.scoring}

    @property
    def values(self) -> list[float]:
        """The values of all sources."""
        return [source.value for source in self.sources]

    @property
    def seeds(self) -> list[int]:
        """The seeds of all sources."""
        return [source.seed for source in self.sources]

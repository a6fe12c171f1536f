"""What every run is, whatever its stages are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from pydantic import Field

from star.spec.base import Section
from star.spec.graph import Stage
from star.spec.resources import Resources

Seed = Annotated[int, Field(ge=0, lt=2**31)]


class Training(NamedTuple):
    """The stage of a run that may be ended early, and gone on from."""

    stage: str
    until: str
    """The field that ends it early, as a dotted path."""
    steps: int
    """How many it has in all."""


class Run(Section):
    """One variant with one seed. Two equal ones (resources aside) are the same run, computed once.

    A kind of run has the fields `resources` and `seed`, and a section for each part that its stages read.
    """

    if TYPE_CHECKING:
        resources: Resources
        seed: int

    @property
    def pipeline(self) -> Mapping[str, Stage]:
        """Its stages, each after its inputs."""
        raise NotImplementedError

    @property
    def training(self) -> Training | None:
        """What a search may end early; None where it must run to its end."""
        return None

    @property
    def has_seed(self) -> bool:
        """Whether a seed made it, so that there may be several."""
        return True

    @property
    def shared(self) -> tuple[Any, ...]:
        """What the key of a section may hold beside the section itself."""
        return ()

    def section(self, name: str) -> Any:
        """What a stage's key holds of a part, as JSON."""
        return self.seed if name == "seed" else getattr(self, name).identity()

    def compared_by(self, stage: str) -> str | None:
        """What must be the same of two runs for the numbers of a stage to be compared."""
        return None

    def has(self, path: str) -> bool:
        """Whether a field is of a part that is switched on."""
        return True

    def metric(self, name: str) -> str:
        """A metric's name with what the run fills in."""
        return name

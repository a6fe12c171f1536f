"""What every run is, whatever its stages are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NamedTuple, Self

from pydantic import Field, model_validator

from star.spec.base import Section
from star.spec.graph import Stage
from star.spec.outside import Paths
from star.spec.resources import Resources

if TYPE_CHECKING:
    from star.spec.plugin_parts import Plugin

Seed = Annotated[int, Field(ge=0, lt=2**31)]


class Training(NamedTuple):
    """The stage of a run that may be ended early, and gone on from."""

    stage: str
    until: str
    """The field that ends it early, as a dotted path."""
    steps: int
    """How many it has in all."""
    last: int
    """The step after which this run ends it."""


class Run(Section):
    """One variant with one seed. Two equal ones (resources aside) are the same run, computed once.

    A kind of run has the fields `resources` and `seed`, and a section for each part that its stages read.
    """

    if TYPE_CHECKING:
        resources: Resources
        seed: int

    declared: ClassVar[Mapping[str, Stage]] = {}
    """All stages that runs of this kind may have, each after its inputs."""
    checks: ClassVar[tuple[Callable[[Any], None], ...]] = ()
    """Of these stages: each raises FieldError where fields do not go together."""
    needs_profile: ClassVar[bool] = True
    """Whether a scale has to be chosen for it."""
    not_searched: ClassVar[tuple[str, ...]] = ()
    """Fields that have no place in a search, whose trials run to their end."""
    settle: ClassVar[str | None] = None
    """`module:function` that gives, of a run and a `star.spec.outside.Outside`, the run as it can be with what was found there."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        for check in self.checks:
            check(self)
        return self

    @property
    def pipeline(self) -> Mapping[str, Stage]:
        """Its stages, each after its inputs."""
        return self.declared

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

    @property
    def paths(self) -> Paths:
        """The files and folders of the outside world that it names."""
        return {}

    @property
    def parameters(self) -> int | None:
        """Parameters of the model that it is about; None where nobody knows."""
        return None

    @property
    def cannot_go_on(self) -> tuple[str, str] | None:
        """Why its training, ended early, could not be gone on from: the field, and words behind it."""
        return None

    def plugins_of(self, stage: str) -> list[Plugin]:
        """The plugins whose code a stage imports."""
        declared: Mapping[str, Plugin] = getattr(self, "plugins", {})
        return [plugin for plugin in declared.values() if stage in plugin.stages]

    def section(self, name: str) -> Any:
        """What a stage's key holds of a part, as JSON."""
        return self.seed if name == "seed" else getattr(self, name).identity()

    def compared_by(self, stage: str) -> str | None:
        """What must be the same of two runs for the numbers of a stage to be compared."""
        return None

    def measured_by(self, stage: str) -> str | None:
        """How the numbers of a stage came about, in sentences for the notes below a table."""
        return None

    def has(self, path: str) -> bool:
        """Whether a field is of a part that is switched on."""
        return True

    def metric(self, name: str) -> str:
        """A metric's name with what the run fills in."""
        return name

    def not_recorded(self, metric: str) -> str | None:
        """What to do where a curve that its stages may record is not recorded of this run; None where it is."""
        return None

    def with_smaller_passes(self, times: int) -> Self:
        """The same with passes of half as many images, `times` times: no part of a key, and no change of the result."""
        return self

    @classmethod
    def given(cls, values: Mapping[str, Any]) -> str | None:
        """What a partial spec names that is measured in place of a run's own work: a path; None where it is the run's own."""
        return None

    @classmethod
    def filled_in(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """Dotted path -> value of what a whole spec may leave open because nothing reads it."""
        return {}

    @classmethod
    def conditions(cls, runs: Sequence[Any]) -> str:
        """What these runs have in common, in words for the notes below a table; empty where there is nothing to say."""
        return ""

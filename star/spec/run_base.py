"""The base class of every run, whatever its stages are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

from pydantic import model_validator

from star.spec.base import Section
from star.spec.graph import Stage
from star.spec.outside import Paths
from star.spec.resources import Resources

if TYPE_CHECKING:
    from star.spec.plugin_parts import Plugin


class Training(NamedTuple):
    """The stage of a run that can be ended early and continued later."""

    stage: str
    until: str
    """The field that ends it early, as a dotted path."""
    steps: int
    """Number of steps of the whole training."""
    last: int
    """The step after which this run ends it."""


class Run(Section):
    """One variant with one seed. Runs that are equal, resources aside, are the same run and are computed once.

    A subclass has the fields `resources` and `seed`, and the sections that its stages read.
    """

    if TYPE_CHECKING:
        resources: Resources
        seed: int

    declared_stages: ClassVar[Mapping[str, Stage]] = {}
    """All stages that runs of this kind may have, each after its inputs."""
    stage_checks: ClassVar[tuple[Callable[[Any], None], ...]] = ()
    """Checks of these stages: each raises FieldError if fields do not fit together."""
    needs_profile: ClassVar[bool] = True
    """Whether such a run needs a profile."""
    not_searched: ClassVar[tuple[str, ...]] = ()
    """Fields that a search may neither set nor vary, because its trials run to their end."""
    settled_by: ClassVar[str | None] = None
    """`module:function`: of a run and a `star.spec.outside.Outside`, the run adapted to what was found."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        for check in self.stage_checks:
            check(self)
        return self

    @property
    def pipeline(self) -> Mapping[str, Stage]:
        """The run's stages by name, each after its inputs."""
        return self.declared_stages

    @property
    def read_by_terms(self) -> tuple[str, ...]:
        """Stages whose output the run's loss terms read, beside what the training reads anyway."""
        return ()

    @property
    def training(self) -> Training | None:
        """The training that a search may end early; None if the run must go to its end."""
        return None

    @property
    def has_seed(self) -> bool:
        """Whether a known seed made the run, so that there may be one run per seed."""
        return True

    @property
    def shared(self) -> tuple[Any, ...]:
        """Values outside a section that `section` may put into a key with it."""
        return ()

    @property
    def outside_paths(self) -> Paths:
        """The external files and folders that the run names."""
        return {}

    @property
    def num_parameters(self) -> int | None:
        """Number of parameters of the run's model; None if unknown."""
        return None

    @property
    def cannot_go_on(self) -> tuple[str, str] | None:
        """(field, reason) if its training could not be continued after it was ended early; None if it can."""
        return None

    def plugins_of(self, stage: str) -> list[Plugin]:
        """The plugins whose code a stage imports."""
        declared: Mapping[str, Plugin] = getattr(self, "plugins", {})
        return [plugin for plugin in declared.values() if stage in plugin.stages]

    def section(self, name: str) -> Any:
        """What a stage's key holds of a section, or of the seed, as JSON."""
        return self.seed if name == "seed" else getattr(self, name).identity()

    def compared_by(self, stage: str) -> str | None:
        """JSON text of an object that is equal for two runs if the numbers of this stage can be compared; None: they always can."""
        return None

    def measured_by(self, stage: str) -> str | None:
        """How the numbers of a stage were measured, in sentences for the notes below a table; None: no note."""
        return None

    def has(self, path: str) -> bool:
        """Whether the field at a dotted path belongs to a part that is switched on."""
        return True

    def metric(self, name: str) -> str:
        """A metric's name with its placeholders filled in from the run."""
        return name

    def not_recorded(self, metric: str, at: str | None = None) -> str | None:
        """What to change if this run does not record a number that its stages can record, `at` this step; None if it does."""
        return None

    def remarks(self) -> list[str]:
        """Sentences on what is legal, and probably not meant."""
        return []

    def with_smaller_passes(self, times: int) -> Self:
        """The run with images per pass halved `times` times, to need less memory. Neither key nor result changes."""
        return self

    @classmethod
    def given_instead(cls, values: Mapping[str, Any]) -> str | None:
        """Path in a partial spec of given outputs, measured in place of the run's own; None if there is none."""
        return None

    @classmethod
    def filled_in(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """Dotted path -> value of required fields that a whole spec may leave out because nothing reads them."""
        return {}

    @classmethod
    def conditions_of(cls, runs: Sequence[Any]) -> str:
        """What these runs have in common, in words for the notes below a table; empty if there is nothing to say."""
        return ""


def value_at(spec: Run, path: str) -> Any:
    """The value of a run's field at a dotted path."""
    found: Any = spec
    for step in path.split("."):
        found = found[step] if isinstance(found, Mapping) else getattr(found, step)
    return found

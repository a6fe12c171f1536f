"""What a plugin declares: the configs that its author writes, and what a run holds of its parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from star.spec.base import NonNegative, Section
from star.spec.graph import Stage
from star.spec.scripts import MetricName


class PluginConfig(Section):
    """What runs may say of a part of a plugin: subclass it with fields that all have defaults."""

    neutral: ClassVar[Mapping[str, Any]] = {}
    """Field -> the value at which it is outside the key: one that is added later with its neutral value as default re-keys nothing."""


class TermConfig(PluginConfig):
    """What runs may say of a loss term, under `terms.NAME`."""

    weight: NonNegative = Field(0.0, description="of its losses; 0: it is not built, and no part of the key")


class StageConfig(PluginConfig):
    """What runs may say of a stage, under its name."""


class SourceConfig(PluginConfig):
    """What runs may say of a data set, under `data.NAME`."""


class TokenizerConfig(PluginConfig):
    """What runs may say of an image tokenizer, under `tokenizer.NAME`."""

    downsample: Annotated[int, Field(ge=1)] = Field(16, description="image pixels per code along a side")


class OpaqueTerm(TermConfig):
    """The same where the plugin's code is not at hand: of a record."""

    model_config = ConfigDict(extra="allow", frozen=True)


class OpaqueStage(StageConfig):
    """The same where the plugin's code is not at hand: of a record."""

    model_config = ConfigDict(extra="allow", frozen=True)


class OpaqueSource(SourceConfig):
    """The same where the plugin's code is not at hand: of a record."""

    model_config = ConfigDict(extra="allow", frozen=True)


class OpaqueTokenizer(TokenizerConfig):
    """The same where the plugin's code is not at hand: of a record."""

    model_config = ConfigDict(extra="allow", frozen=True)


class Part(Section):
    """A part of a plugin, as it is declared there."""

    neutral: dict[str, Any] = Field(default_factory=dict)
    version: Annotated[int, Field(ge=1)] | None = None

    def key_of(self, config: Section) -> dict[str, Any]:
        """What a key holds of its config."""
        values = config.model_dump(mode="json")
        return {
            name: value for name, value in values.items() if name not in self.neutral or self.neutral[name] != value
        }


class OwnTerm(Part):
    """A loss term."""

    loss_names: list[MetricName]
    changes: list[str] = Field(default_factory=list)
    teacher: bool = False
    averages_head: bool = False


class OwnSource(Part):
    """A data set."""


class OwnTokenizer(Part):
    """An image tokenizer."""


class OwnStage(Part):
    """A stage."""

    after: list[str] = Field(default_factory=list)
    results: list[MetricName] = Field(default_factory=list)
    curves: dict[MetricName, str] = Field(default_factory=dict)
    attach: list[str] = Field(default_factory=list)
    keeps: Literal["checkpoints"] | None = None
    gpu: bool = True
    uses_seed: bool = False

    def stage(self, name: str, code: str) -> Stage:
        """As the platform knows stages."""
        return Stage(
            name,
            1,
            (name, "seed") if self.uses_seed else (name,),
            tuple(self.after),
            results=tuple(self.results),
            curves=dict(self.curves),
            files=tuple(self.attach),
            keeps=self.keeps,
            gpu=self.gpu,
            code=code,
        )


class Plugin(Section):
    """A plugin as a run holds it."""

    folder: str
    """Where its files were read."""
    module: str
    digest: str
    """16 hexadecimal digits of its files' names and contents."""
    terms: dict[str, OwnTerm] = Field(default_factory=dict)
    stages: dict[str, OwnStage] = Field(default_factory=dict)
    sources: dict[str, OwnSource] = Field(default_factory=dict)
    tokenizers: dict[str, OwnTokenizer] = Field(default_factory=dict)

    @property
    def parts(self) -> dict[str, Part]:
        """All that it declares, by name."""
        return {**self.terms, **self.stages, **self.sources, **self.tokenizers}

    def code_of(self, part: Part) -> str:
        """What a key says of the code of a part: its content, or the version that its author keeps."""
        return self.digest if part.version is None else f"{self.module} {part.version}"

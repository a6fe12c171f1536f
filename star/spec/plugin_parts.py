"""What a plugin declares: the configs that its author writes, and what a run holds of its parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from star.spec.base import NonNegative, Section
from star.spec.graph import Stage
from star.spec.scripts import MetricName


class PluginConfig(Section):
    """Base class of the settings of a plugin's part: subclass it with fields that all have defaults, and are finite."""

    model_config = ConfigDict(allow_inf_nan=False)

    neutral: ClassVar[Mapping[str, Any]] = {}
    """Field -> value at which it is left out of the key. A field added later with this default changes no key."""


class TermConfig(PluginConfig):
    """Settings of a loss term; in a run under `terms.NAME`."""

    weight: NonNegative = Field(0.0, description="of its losses; 0: it is not built, and no part of the key")


class StageConfig(PluginConfig):
    """Settings of a stage; in a run under the stage's name."""


class SourceConfig(PluginConfig):
    """Settings of a data set; in a run under `data.NAME`."""


class TokenizerConfig(PluginConfig):
    """Settings of an image tokenizer; in a run under `tokenizer.NAME`."""

    downsample: Annotated[int, Field(ge=1)] = Field(16, description="image pixels per code along a side")


class OpaqueTerm(TermConfig):
    """Settings of a loss term whose plugin is not imported, as a record holds them: any fields."""

    model_config = ConfigDict(extra="allow", frozen=True)


class OpaqueStage(StageConfig):
    """Settings of a stage whose plugin is not imported, as a record holds them: any fields."""

    model_config = ConfigDict(extra="allow", frozen=True)


class OpaqueSource(SourceConfig):
    """Settings of a data set whose plugin is not imported, as a record holds them: any fields."""

    model_config = ConfigDict(extra="allow", frozen=True)


class OpaqueTokenizer(TokenizerConfig):
    """Settings of a tokenizer whose plugin is not imported, as a record holds them: any fields."""

    model_config = ConfigDict(extra="allow", frozen=True)


class Part(Section):
    """What a plugin declares of one of its parts."""

    neutral: dict[str, Any] = Field(default_factory=dict)
    version: Annotated[int, Field(ge=1)] | None = None

    def key_of(self, config: Section) -> dict[str, Any]:
        """The fields of this part's config that are in a key: all but those at their neutral value."""
        values = config.model_dump(mode="json")
        return {
            name: value for name, value in values.items() if name not in self.neutral or self.neutral[name] != value
        }


class OwnTerm(Part):
    """What a plugin declares of a loss term."""

    after: list[str] = Field(default_factory=list)
    loss_names: list[MetricName]
    changes: list[str] = Field(default_factory=list)
    agrees_with: list[str] = Field(default_factory=list)
    teacher: bool = False
    averages_head: bool = False


class OwnSource(Part):
    """What a plugin declares of a data set."""


class OwnTokenizer(Part):
    """What a plugin declares of an image tokenizer."""


class OwnStage(Part):
    """What a plugin declares of a stage."""

    after: list[str] = Field(default_factory=list)
    results: list[MetricName] = Field(default_factory=list)
    curves: dict[MetricName, str] = Field(default_factory=dict)
    attach: list[str] = Field(default_factory=list)
    keeps: Literal["checkpoints"] | None = None
    gpu: bool = True
    uses_seed: bool = False

    def stage(self, name: str, code: str) -> Stage:
        """The stage in the form that the platform uses for all stages."""
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
    """What a run holds of a plugin: the digest of its files, and what it declares."""

    folder: str
    """The folder from which its files were read."""
    module: str
    digest: str
    """16 hexadecimal digits of its files' names and contents."""
    terms: dict[str, OwnTerm] = Field(default_factory=dict)
    stages: dict[str, OwnStage] = Field(default_factory=dict)
    sources: dict[str, OwnSource] = Field(default_factory=dict)
    tokenizers: dict[str, OwnTokenizer] = Field(default_factory=dict)

    @property
    def parts(self) -> dict[str, Part]:
        """All parts that the plugin declares, by name."""
        return {**self.terms, **self.stages, **self.sources, **self.tokenizers}

    def code_of(self, part: Part) -> str:
        """What identifies a part's code in keys: the digest of the plugin's files, or `MODULE VERSION` of the part."""
        return self.digest if part.version is None else f"{self.module} {part.version}"

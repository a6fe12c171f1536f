"""A run of ST-AR that may use loss terms, data sets and tokenizers of plugins, and the sections that these add."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, create_model, model_validator

from star.pipeline.config.dataset import SOURCES, DataSpec
from star.pipeline.config.run import StarRun, TermCost
from star.pipeline.config.setting import Setting
from star.pipeline.config.tokenizer import TokenizerSpec
from star.spec.assemble import section_field
from star.spec.base import FieldError, Section
from star.spec.plugin_parts import OpaqueSource, OpaqueTerm, OpaqueTokenizer, OwnTerm, Plugin
from star.spec.plugins import check_made, class_of, config_of

OWN_TERMS = ("next_token", "mim", "contrastive", "hidden_keys")
"""Names of ST-AR's own terms."""
OF_FOLDERS = ("test_fraction", "train_split", "test_split")
"""Fields of `data` that a plugin's data set does not get, and that are not in its key."""


class RunWithPlugins(StarRun):
    """A run of ST-AR that may use loss terms, data sets and tokenizers of plugins."""

    if TYPE_CHECKING:
        plugins: dict[str, Plugin]
        terms: Section

    @property
    def has_teacher(self) -> bool:
        """Whether an average of the model's weights is kept: for ST-AR itself, or for a plugin's term that reads it."""
        return super().has_teacher or any(plugin.terms[name].teacher for name, plugin, _ in self.own_terms)

    @property
    def read_by_terms(self) -> tuple[str, ...]:
        """Stages whose output the terms of plugins read that the run is trained with."""
        return tuple(dict.fromkeys(one for name, plugin, _ in self.own_terms for one in plugin.terms[name].after))

    @property
    def is_arranged(self) -> bool:
        """Whether a plugin's term has student and teacher see the codes in another order."""
        return any("order" in plugin.terms[name].changes for name, plugin, _ in self.own_terms)

    @property
    def own_costs(self) -> list[TermCost]:
        """What each plugin's term adds to the cost of training; empty where their code was not imported."""
        return [found for name, plugin, _ in self.own_terms if (found := _cost(name, plugin, self)) is not None]

    @property
    def own_terms(self) -> list[tuple[str, Plugin, dict[str, Any]]]:
        """(name, plugin, fields) of each plugin's term that the run is trained on: those with a weight above 0."""
        return list(_active(self.terms, self.plugins))

    def has(self, path: str) -> bool:
        """Whether the field at a dotted path is switched on: of a term whose weight is 0, only `weight` is."""
        section, _, field = path.partition(".")
        name, _, field = field.partition(".")
        return section != "terms" or field == "weight" or any(name == term for term, _, _ in self.own_terms)

    @property
    def source_plugin(self) -> Plugin | None:
        """The plugin that declares the run's data set; None for a built-in one."""
        return next((plugin for plugin in self.plugins.values() if self.data.name in plugin.sources), None)

    @property
    def tokenizer_plugin(self) -> Plugin | None:
        """The plugin that declares the run's tokenizer; None for the built-in one."""
        chosen = getattr(self.tokenizer, "name", "vq")
        return next((plugin for plugin in self.plugins.values() if chosen in plugin.tokenizers), None)

    def plugins_of(self, stage: str) -> list[Plugin]:
        """Plugins whose code a stage imports: the one that declares it, or else those of terms, images and codes."""
        own = super().plugins_of(stage)
        if own:
            return own
        trained_on = [plugin for _, plugin, _ in self.own_terms] if "terms" in self.pipeline[stage].optional else []
        # several stages look at images, or at their codes
        seen = [plugin for plugin in (self.source_plugin, self.tokenizer_plugin) if plugin is not None]
        return list({plugin.digest: plugin for plugin in (*trained_on, *seen)}.values())

    def section(self, name: str) -> Any:
        """What a key holds of a section, as JSON; for `terms`, the active terms and what identifies their code."""
        if name != "terms":
            return super().section(name)
        found = {}
        for term, plugin, _ in self.own_terms:
            declared = plugin.terms[term]
            kept = declared.key_of(getattr(self.terms, term))
            if not declared.loss_names:
                kept["weight"] = 1.0  # it only switches the term on
            # without ST-AR's own teacher, only the term reads these
            if (declared.teacher or declared.averages_head) and not self.selfguided.teacher:
                kept["ema"] = [self.selfguided.ema_decay, self.selfguided.ema_ramp]
            found[term] = {**kept, "plugin": plugin.code_of(declared)}
        return found

    @model_validator(mode="after")
    def _terms_go_together(self) -> RunWithPlugins:
        changed = {"attend": "hidden_keys"} if self.selfguided.masked else {}
        self._check_order()
        for term, plugin, _ in self.own_terms:
            _check_term(term, plugin, self)
            for what in plugin.terms[term].changes:
                if what in changed:
                    raise FieldError(
                        f"terms.{term}",
                        f"{term} and {changed[what]} both change the student's {what}; give one of them weight 0",
                    )
                changed[what] = term
        return self

    def _check_order(self) -> None:
        """Check that terms which go by codes in raster order are not beside one that changes their order or replaces them."""
        agrees = {name: set(plugin.terms[name].agrees_with) for name, plugin, _ in self.own_terms}
        agrees |= {"st-ar": {"order"}} if self.selfguided.teacher or self.selfguided.masked else {}
        for name, plugin, _ in self.own_terms:
            for what in {"order", "sequence"}.intersection(plugin.terms[name].changes):
                for other, found in agrees.items():
                    if other != name and what not in found:
                        raise FieldError(
                            f"terms.{name}",
                            f"{name} changes the {what} of what the student sees, and {other} goes by codes in raster order; "
                            "give one of them weight 0",
                        )


def plugged(plugins: Mapping[str, Plugin]) -> dict[str, Any]:
    """The fields of a run that these plugins add or change."""
    sections = {"terms": _terms(plugins), "data": _data(plugins), "tokenizer": _tokenizer(plugins)}
    return {name: section_field(kind) for name, kind in sections.items()}


def _active(terms: Section, plugins: Mapping[str, Plugin]) -> Iterator[tuple[str, Plugin, dict[str, Any]]]:
    """Yield (name, plugin, fields) of each term that a run is trained with: those with a weight above 0."""
    declared = {name: plugin for plugin in plugins.values() for name in plugin.terms}
    # sorted, so that the file's order changes nothing: the terms' modules draw their initial weights one after another
    for name, plugin in sorted(declared.items()):
        values = getattr(terms, name).model_dump(mode="json")
        if values["weight"] > 0:
            yield name, plugin, values


def _cost(name: str, plugin: Plugin, run: RunWithPlugins) -> TermCost | None:
    made = class_of(plugin, name)
    if made is None or not hasattr(made, "flops"):
        return None
    term = made(getattr(run.terms, name), Setting.of(run))
    reads = term.teacher
    if reads is None:
        return TermCost(float(term.flops()))
    depth = run.model.n_layer if reads.final else max(reads.layers, default=0)
    return TermCost(float(term.flops()), depth, reads.all_views)


def _check_term(name: str, plugin: Plugin, run: RunWithPlugins) -> None:
    """Check that a term can be made for a run, if its code was imported.

    Raises:
        FieldError: it cannot, or is not what its class declares.
    """
    declared, config, setting = plugin.terms[name], getattr(run.terms, name), Setting.of(run)

    def made(term: Any) -> str | None:
        found = term(config, setting)
        return promised(found, declared) or _countable(found) or _in_one_pass(found, run)

    check_made(f"terms.{name}", plugin, name, made, has_to_have="build")


def _in_one_pass(term: Any, run: RunWithPlugins) -> str | None:
    """Why a term cannot be computed because a step is more than one pass of one process, in words; None if it can."""
    own, remedy = run.resources, getattr(term, "whole_batch", "")
    processes = own.processes_of("train") * own.nodes_of("train")
    passes = -(-run.optim.batch_size // min(own.micro_batch_size or run.optim.batch_size, run.optim.batch_size))
    if not remedy or processes == passes == 1:
        return None
    what = (
        f"{processes} processes (resources.train)" if processes > 1 else f"{passes} passes (resources.micro_batch_size)"
    )
    return f"it compares all images of a step, which has to be one pass of one process, and here are {what}; {remedy}, or one pass"


def _countable(term: Any) -> str | None:
    """What is wrong with the cost that a term tells, in words; None if nothing is."""
    told = term.flops()
    is_number = isinstance(told, int | float) and math.isfinite(told)
    return None if is_number else f"its flops() gave {told!r}; give a number: what it adds to a step for each sequence"


def promised(term: Any, declared: OwnTerm) -> str | None:
    """How a term that was made for a run differs from what its class declares, in words; None if it does not."""
    for what, now, then in (
        ("after", list(getattr(term, "after", ())), declared.after),
        ("loss_names", list(term.loss_names), declared.loss_names),
        ("changes", sorted(term.changes), declared.changes),
        ("agrees_with", sorted(getattr(term, "agrees_with", ())), declared.agrees_with),
        ("averages_head", bool(term.averages_head), declared.averages_head),
    ):
        if now != then:
            return (
                f"its __init__ makes {what} {now!r}, and the class says {then!r}; say on the class what every run has"
            )
    if (term.teacher is not None) != declared.teacher:
        if declared.teacher:
            return "its class has a teacher, and its __init__ takes it away; leave it, or leave it out of the class"
        return "its __init__ sets a teacher, and the class has none; write `teacher = TeacherReads()` on the class too"
    return None


def _terms(plugins: Mapping[str, Plugin]) -> type[Section]:
    """The pydantic model of a run's `terms`: a field for each term of these plugins."""
    fields: dict[str, Any] = {}
    for plugin in plugins.values():
        for term in plugin.terms:
            fields[term] = section_field(config_of(plugin, term, OpaqueTerm))
    return create_model("Terms", __base__=Section, __doc__="Loss terms of plugins.", **fields)


def _data(plugins: Mapping[str, Plugin]) -> type[DataSpec]:
    """The pydantic model of a run's `data`. Each data set of a plugin is a legal name and has its own section."""
    own = {name: (plugin, part) for plugin in plugins.values() for name, part in plugin.sources.items()}
    if not own:
        return DataSpec

    class OwnData(DataSpec):
        def identity(self) -> dict[str, Any]:
            values = {name: value for name, value in super().identity().items() if name not in own}
            if self.name in own:
                plugin, part = own[self.name]
                values = {name: one for name, one in values.items() if name not in OF_FOLDERS}
                values[self.name] = {**part.key_of(getattr(self, self.name)), "plugin": plugin.code_of(part)}
            return values

    fields: dict[str, Any] = {"name": (Literal[(*SOURCES, *own)], DataSpec.model_fields["name"])}
    for name, (plugin, _) in own.items():
        fields[name] = section_field(config_of(plugin, name, OpaqueSource))
    return create_model("DataSpec", __base__=OwnData, __doc__=DataSpec.__doc__, **fields)


def _tokenizer(plugins: Mapping[str, Plugin]) -> type[TokenizerSpec]:
    """The pydantic model of a run's `tokenizer`. Each tokenizer of a plugin is a legal name and has its own section."""
    own = {name: (plugin, part) for plugin in plugins.values() for name, part in plugin.tokenizers.items()}
    if not own:
        return TokenizerSpec

    class OwnTokenizerSpec(TokenizerSpec):
        if TYPE_CHECKING:
            name: str

        @property
        def downsample(self) -> int:
            return int(getattr(self, self.name).downsample) if self.name in own else super().downsample

        def identity(self) -> dict[str, Any]:
            if self.name not in own:
                return {name: value for name, value in super().identity().items() if name not in (*own, "name")}
            plugin, part = own[self.name]
            config = {**part.key_of(getattr(self, self.name)), "plugin": plugin.code_of(part)}
            found = {"name": self.name, "codebook_size": self.codebook_size, self.name: config}
            return found if self.weights else {**found, "seed": self.seed}

    chosen = Field("vq", description="vq: ours; or the name of a plugin's")
    fields: dict[str, Any] = {"name": (Literal[("vq", *own)], chosen)}
    for name, (plugin, _) in own.items():
        fields[name] = section_field(config_of(plugin, name, OpaqueTokenizer))
    return create_model("TokenizerSpec", __base__=OwnTokenizerSpec, __doc__=TokenizerSpec.__doc__, **fields)

"""Keys: what makes two pieces of work the same.

A stage's key hashes its name, its version, the sections it reads, the fingerprints of outside data and the keys of
its inputs. Resources, paths and labels are not part of it. A run's key hashes the keys of all its stages.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from star.spec.graph import Stage
from star.spec.run_base import Run

SCHEMA = 1
"""Version of the way in which keys are computed; part of every key."""


def canonical(value: Any) -> str:
    """The canonical JSON text of a value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any) -> str:
    """16 hexadecimal digits that identify a value: the start of the SHA-256 of its canonical JSON."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:16]


def stage_content(stage: Stage, spec: Run, sources: Mapping[str, str], inputs: Mapping[str, str]) -> dict[str, Any]:
    """Everything that a stage's key is computed from, in readable form."""
    content = {
        "schema": SCHEMA,
        "stage": stage.name,
        "version": stage.version_of(spec),
        "spec": {name: spec.section(name) for name in stage.sections_of(spec)},
        "source": sources.get(stage.source) if stage.source else None,
        "inputs": dict(inputs),
    }
    if stage.code is not None:
        return {**content, "plugin": stage.code}
    if stage.command is None:
        return content
    source = sources.get(str(stage.source))  # readable, so that `why` names the file that differs
    return {**content, "command": stage.command, "source": None if source is None else json.loads(source)}


class Keys:
    """Computes keys of many runs; what they share is hashed once. Sections are the same if they are the same object."""

    def __init__(self) -> None:
        self._texts: dict[tuple[Any, ...], str] = {}
        self._digests: dict[tuple[Any, ...], str] = {}
        self._kept: list[Run] = []
        """Keeps the runs alive, so that no new section gets the `id` of a freed one."""

    def of(self, spec: Run, sources: Mapping[str, str]) -> dict[str, str]:
        """The key of every stage that a run has, by name. `sources` maps a `Stage.source` to its files' fingerprint."""
        self._kept.append(spec)
        parts = {name: id(value) for name, value in spec.__dict__.items()} | {"seed": spec.seed}
        keys: dict[str, str] = {}
        for name, stage in spec.pipeline.items():
            source = sources.get(stage.source) if stage.source else None
            sections = tuple(parts.get(section) for section in (*stage.sections, *stage.optional))
            inputs = tuple(keys.get(before) for before in stage.inputs_of(spec))
            place = (
                name,
                source,
                spec.shared,
                sections,
                stage.version_of(spec),
                inputs,
            )
            if place not in self._digests:
                text = self._text(stage, spec, source, keys)
                self._digests[place] = hashlib.sha256(text.encode()).hexdigest()[:16]
            keys[name] = self._digests[place]
        return keys

    def _text(self, stage: Stage, spec: Run, source: str | None, keys: Mapping[str, str]) -> str:
        """`canonical(stage_content(...))`, assembled from cached parts; a test checks that the two are equal."""
        if stage.is_own:
            sources = {} if source is None else {str(stage.source): source}
            return canonical(stage_content(stage, spec, sources, {name: keys[name] for name in stage.inputs_of(spec)}))
        inputs = ",".join(f'"{name}":"{keys[name]}"' for name in sorted(stage.inputs_of(spec)) if name in keys)
        sections = ",".join(f'"{name}":{self._section_text(spec, name)}' for name in sorted(stage.sections_of(spec)))
        return (
            f'{{"inputs":{{{inputs}}},"schema":{SCHEMA},"source":{canonical(source)},"spec":{{{sections}}},'
            f'"stage":"{stage.name}","version":{stage.version_of(spec)}}}'
        )

    def _section_text(self, spec: Run, name: str) -> str:
        if name == "seed":
            return canonical(spec.section(name))
        place = (id(getattr(spec, name)), spec.shared, name)
        if place not in self._texts:
            self._texts[place] = canonical(spec.section(name))
        return self._texts[place]


def stage_keys(spec: Run, sources: Mapping[str, str]) -> dict[str, str]:
    """The key of every stage of one run, by name; `sources` as in `Keys.of`."""
    return Keys().of(spec, sources)


def run_key(spec: Run, keys: Mapping[str, str]) -> str:
    """The key of a run whose stages have these keys."""
    left_out = {name for name, stage in spec.pipeline.items() if stage.follows is not None and stage.follows(spec)}
    stages = ",".join(f'"{name}":"{keys[name]}"' for name in sorted(keys) if name not in left_out)
    return hashlib.sha256(f'{{"schema":{SCHEMA},"stages":{{{stages}}}}}'.encode()).hexdigest()[:16]

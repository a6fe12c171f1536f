"""Keys: what makes two pieces of work the same.

A stage's key hashes its name, its version, the sections it reads, the fingerprints of outside data and the keys of
its inputs. Resources, paths and labels are outside. A run's key hashes the keys of all its stages.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from star.spec.graph import STAGES, Stage
from star.spec.run import RunSpec

SCHEMA = 1
"""Version of the recipe below; part of every key."""


def canonical(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any) -> str:
    """16 hexadecimal digits that name a value."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:16]


def stage_content(stage: Stage, spec: RunSpec, sources: Mapping[str, str], inputs: Mapping[str, str]) -> dict[str, Any]:
    """Everything a stage's key is made of, readable."""
    sections: dict[str, Any] = {
        name: spec.seed if name == "seed" else getattr(spec, name).identity() for name in stage.sections
    }
    # "1/2" of 12 layers and 6 are the same layer
    if "contrastive_layer" in sections.get("selfguided", {}):
        sections["selfguided"]["contrastive_layer"] = spec.contrastive_layer
    if "probe" in sections:
        sections["probe"]["layer"] = spec.probe_layer
    return {
        "schema": SCHEMA,
        "stage": stage.name,
        "version": stage.version,
        "spec": sections,
        "source": sources.get(stage.source) if stage.source else None,
        "inputs": dict(inputs),
    }


def stage_keys(spec: RunSpec, sources: Mapping[str, str]) -> dict[str, str]:
    """The key of every stage of a run; `sources` maps what stages read of the outside world to fingerprints."""
    keys: dict[str, str] = {}
    for name, stage in STAGES.items():
        keys[name] = digest(stage_content(stage, spec, sources, {before: keys[before] for before in stage.inputs}))
    return keys


def run_key(keys: Mapping[str, str]) -> str:
    """The key of the run whose stages have these keys."""
    return digest({"schema": SCHEMA, "stages": dict(keys)})

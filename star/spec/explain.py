"""A pydantic error as one sentence: where, what was found, what is legal, what was probably meant."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date
from functools import cache
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from star.errors import SpecError
from star.spec.base import NEW, WORDS
from star.spec.builtin import builtin_runs
from star.spec.yamldoc import LocatedYaml
from star.words import meant

ANYTHING = "a value"
Loc = tuple[str | int, ...]
M = TypeVar("M", bound=BaseModel)


def validated(model: type[M], doc: LocatedYaml, name: str, recorded: bool = False) -> M:
    """Validate `doc` as a `model`.

    Args:
        name: what to call the source of a value without a location.
        recorded: `doc` is a home's copy of what ran, of which what would be refused in a new file is taken.

    Raises:
        SpecError: one line for each mistake.
    """
    try:
        return model.model_validate(doc.value, context={NEW: not recorded})
    except ValidationError as error:
        raise SpecError("\n".join(_sentences(error, model, doc, name))) from None


def _sentences(error: ValidationError, model: type[BaseModel], doc: LocatedYaml, name: str) -> list[str]:
    lines: dict[Loc, str] = {}
    schema = _schema(model)
    for item in error.errors(include_url=False):
        loc: Loc = item["loc"]
        if item["type"] == "value_error" and hasattr(item["ctx"]["error"], "paths"):
            loc = _to_blame(loc, item["ctx"]["error"].paths, schema, doc, name)
        is_key = loc[-1:] == ("[key]",)
        loc = loc[:-1] if is_key else loc
        known = _known_part(schema, loc, keep_last=item["type"] == "extra_forbidden")
        written = _without_tags(schema, known)
        location = doc.location(written) or name
        path = ".".join(str(step) for step in written) or "the file"
        said = _complaint_of_key(schema, known) if is_key else _complaint(item, schema, known)
        lines.setdefault(known, f"{location}: {path}: {said}")
    return list(lines.values())


def _to_blame(loc: Loc, paths: list[tuple[str, ...]], schema: dict[str, Any], doc: LocatedYaml, name: str) -> Loc:
    """The first of these fields that the user's own file or command line gives a value; the first of all if none."""
    found = [(*loc, *(int(step) if step.isdigit() else step for step in path)) for path in paths]
    for one in found:
        location = doc.locations.get(_without_tags(schema, _known_part(schema, one, keep_last=False)))
        if location is not None and (location.source == name or not location.line):
            return one
    return found[0]


def _complaint(item: Any, schema: dict[str, Any], loc: Loc) -> str:
    kind = item["type"]
    if kind == "extra_forbidden":
        legal = list(_section(_at(schema, loc[:-1]), schema).get("properties", {}))
        legal += ["extends", "add"] if "experiment" in legal else []  # they are read before the rest of the file
        return f"unknown key{_hint(str(loc[-1]), legal, schema)}; legal here: {', '.join(legal)}."
    if kind == "missing":
        return f"is missing; give {legal_values(_at(schema, loc), schema)}."
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        field, legal = str(item["ctx"]["discriminator"]).strip("'"), list(_tags(_at(schema, loc)))
        if kind == "union_tag_not_found":
            return f"{field} is missing; give one of {', '.join(legal)}."
        tag = item["input"][field] if isinstance(item["input"], dict) else item["ctx"]["tag"]
        return f"{field}: {_not_legal(tag, legal)}; give one of {', '.join(legal)}."
    if kind == "value_error":
        return f"{item['ctx']['error']}."
    target = _at(schema, loc)
    as_text = re.search(target.get("pattern", ""), str(item["input"])) is not None
    quotes = _why_in_quotes(item["input"]) if kind == "string_type" and as_text else ""
    return f"{_not_legal(item['input'], target.get('enum', []))}; give {legal_values(target, schema)}{quotes}."


def _complaint_of_key(schema: dict[str, Any], loc: Loc) -> str:
    names = _section(_at(schema, loc[:-1]), schema).get("propertyNames", {})
    return f"{_not_legal(loc[-1], [])} as a name; give {legal_values(names, schema)}."


def _not_legal(value: Any, legal: Sequence[object]) -> str:
    """That a value is not legal; it is written as YAML has it, whose `null` is also what nothing after a colon means."""
    if value is None:
        return "is empty (null)"
    return f"{_shown(value)} is not legal{meant(value, legal)}"


def _why_in_quotes(value: Any) -> str:
    kinds: dict[type, str] = {bool: "true or false", int: "a number", float: "a number", date: "a date"}
    return f", in quotes: without them this is {kinds[type(value)]}" if type(value) in kinds else ""


NO_TERMS = " (no plugin of this file defines terms: name one, plugins: [FILE.py])"


def _hint(key: str, legal: list[str], schema: dict[str, Any]) -> str:
    """What was probably meant by a key that is not legal: another section's field, another section, another spelling."""
    around = next((name for name in ("base", "spec") if name in legal), None)
    if around is not None:  # in an experiment, or one of its rows
        runs = _schema(builtin_runs().plain)
        if key in runs["properties"] or key == "terms":
            return f" (a section of runs: write it in `{around}`)"
        owners = _owners(key, runs)
        return f" (write {' or '.join(owners)} in `{around}`)" if owners else meant(key, legal, similar=0.6)
    section, dot, field = key.partition(".")
    if dot and section in legal:
        return f" (dots are not read here: write {section}: {{{field}: ...}})"
    if key == "terms" and "selfguided" in legal:
        return NO_TERMS
    return _elsewhere(key, schema) or meant(key, legal, similar=0.6)


def _elsewhere(key: str, schema: dict[str, Any]) -> str:
    owners = _owners(key, schema)
    return f" (did you mean {' or '.join(owners)}?)" if owners else ""


def _owners(key: str, schema: dict[str, Any]) -> list[str]:
    """Dotted paths of the fields of this name in the sections of a run."""
    sections = schema.get("properties", {})
    if "seed" not in sections:  # no run
        return []
    found = [
        f"{name}.{key}" for name in sections if key in _section(_at(schema, (name,)), schema).get("properties", {})
    ]
    return found if len(found) < 4 else []


def field_schema(model: type[BaseModel], path: str) -> dict[str, Any]:
    """The JSON schema of the field at a dotted path.

    Raises:
        SpecError: there is no such field; the message names the nearest.
    """
    schema = _schema(model)
    steps = path.split(".")
    for size, step in enumerate(steps):
        here = _section(_at(schema, tuple(steps[:size])), schema)
        legal = list(here.get("properties", {}))
        free = isinstance(here.get("additionalProperties"), dict)
        if step not in legal and not free:
            where = ".".join(steps[:size])
            if not legal:
                raise SpecError(f"{path}: {where} is a single value and has no field {step!r}")
            without_terms = step == "terms" and "selfguided" in legal
            hint = NO_TERMS if without_terms else _elsewhere(step, schema) or meant(step, legal)
            raise SpecError(f"{path}: {where or 'a run'} has no field {step!r}{hint}; legal: {', '.join(legal)}")
    return _at(schema, tuple(steps))


@cache
def _schema(model: type[BaseModel]) -> dict[str, Any]:
    """The model's JSON schema. It is cached: making it takes as long as reading an experiment, which needs it often."""
    found: dict[str, Any] = _with_free_keys(model.model_json_schema())
    return found


def _with_free_keys(part: Any) -> Any:
    """The schema, with mappings whose keys must match a pattern turned into mappings with any keys."""
    if isinstance(part, list):
        return [_with_free_keys(one) for one in part]
    if not isinstance(part, dict):
        return part
    found = {name: _with_free_keys(value) for name, value in part.items() if name != "patternProperties"}
    if found.get("additionalProperties") is True:  # such as the section of a plugin's part in a record
        found["additionalProperties"] = {}
    for value in part.get("patternProperties", {}).values():
        found["additionalProperties"] = _with_free_keys(value)
    return found


def _known_part(schema: dict[str, Any], loc: Loc, keep_last: bool) -> Loc:
    """`loc` without the names of union members that pydantic appends."""
    for size, step in enumerate(loc):
        here = _section(_at(schema, loc[:size]), schema)
        last_unknown = keep_last and size == len(loc) - 1
        if not (
            last_unknown
            or step in here.get("properties", {})
            or "additionalProperties" in here
            or step in _tags(here)
            or (isinstance(step, int) and "items" in here)
        ):
            return loc[:size]
    return loc


def _without_tags(schema: dict[str, Any], loc: Loc) -> Loc:
    """`loc` as the file has it: without the union tags that pydantic adds."""
    return tuple(step for size, step in enumerate(loc) if step not in _tags(_at(schema, loc[:size])))


def _tags(part: dict[str, Any]) -> dict[str, str]:
    """Value of the field that tells the kinds of a part apart -> reference to the schema of that kind."""
    found: dict[str, str] = part.get("discriminator", {}).get("mapping", {})
    return found


def _at(schema: dict[str, Any], loc: Loc) -> dict[str, Any]:
    here = schema
    for step in loc:
        here = _section(here, schema)
        if step in here.get("properties", {}):
            here = here["properties"][step]
        elif isinstance(step, int) and "items" in here:
            here = here["items"]
        elif isinstance(here.get("additionalProperties"), dict):
            here = here["additionalProperties"]
        elif step in _tags(here):
            here = {"$ref": _tags(here)[str(step)]}
        else:
            return {}
    return _resolved(here, schema)


def _section(part: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of a part; for a part that may be null, the schema of its other kind."""
    options = [option for option in part.get("anyOf", ()) if option.get("type") != "null"]
    return _resolved(options[0] if len(options) == 1 else part, schema)


def _resolved(part: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in part:
        found: dict[str, Any] = schema["$defs"][part["$ref"].rsplit("/", 1)[1]]
        return found
    return part


def legal_values(part: dict[str, Any], schema: dict[str, Any]) -> str:
    """What a JSON schema allows, in words, with its example if it has one."""
    part = _resolved(part, schema)
    if "examples" in part:
        return f"{_legal_values(part, schema)}, such as {part['examples'][0]}".replace("'", "")
    return _legal_values(part, schema)


def _legal_values(part: dict[str, Any], schema: dict[str, Any]) -> str:
    if WORDS in part:
        return str(part[WORDS])
    if "discriminator" in part:
        return f"a mapping whose {part['discriminator']['propertyName']} is one of {', '.join(_tags(part))}"
    if "anyOf" in part:
        return " or ".join(legal_values(option, schema) for option in part["anyOf"])
    if "enum" in part:
        return "one of " + ", ".join(str(option) for option in part["enum"])
    if "const" in part:
        return str(part["const"])
    return _legal_of_type(part, schema)


def _legal_of_type(part: dict[str, Any], schema: dict[str, Any]) -> str:
    kind = part.get("type")
    if kind in ("integer", "number"):
        return ("a whole number" if kind == "integer" else "a number") + _range(part)
    if kind == "array":
        entries = legal_values(part.get("items", {}), schema)
        return f"a list{_count(part)}" + (f"; each entry: {entries}" if entries != ANYTHING else "")
    words = {"string": "text", "boolean": "true or false", "null": "null", "object": "a mapping of keys to values"}
    is_filled = part.get("minLength") == 1 or part.get("minProperties") == 1
    return words.get(str(kind), ANYTHING) + (" that is not empty" if is_filled else "")


def _count(part: dict[str, Any]) -> str:
    least, most = part.get("minItems", 0), part.get("maxItems")
    if most is not None:
        return f" of {least} to {most}"
    return f" of {least} or more" if least else ""


def _range(part: dict[str, Any]) -> str:
    """Such as ` from 1 on`, ` from 0 to 1`, ` from 0 to below 1`, ` above 0`, ` above 0 and below 1`; empty if any number is legal."""
    least, above, most, below = (
        _exact(part.get(key)) for key in ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum")
    )
    if least:
        return f" from {least} " + (f"to {most}" if most else f"to below {below}" if below else "on")
    limits = [f"above {above}" if above else "", f"at most {most}" if most else f"below {below}" if below else ""]
    return "".join(f" {limit}" for limit in (" and ".join(filter(None, limits)),) if limit)


def _exact(bound: float | None) -> str:
    return "" if bound is None else str(int(bound)) if bound == int(bound) else str(bound)


def _shown(value: Any) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value) if isinstance(value, date) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."

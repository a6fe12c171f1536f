"""Building blocks of spec sections: number types, layer references, the base class, the error that names a field."""

from __future__ import annotations

import re
from fractions import Fraction
from math import floor
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo

NEW = "new"
"""Key of the context in which files are validated: true while they are not records, which older versions may have let through."""
WORDS = "words"
"""Key of a field's JSON schema: what is legal there, as people say it."""
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


def text_like(pattern: str, words: str) -> Any:
    """A field for text that matches a regular expression, of which messages and docs say `words`."""
    return Field(pattern=pattern, json_schema_extra={WORDS: words})


def is_new(info: ValidationInfo) -> bool:
    """Whether what is validated is a file of the user's, and no record of what ran."""
    return bool((info.context or {}).get(NEW))


def at_home(text: str) -> Path:
    """The path with `~` and `~user` filled in.

    Raises:
        ValueError: there is no such user; or the text is empty, which would be the current folder.
    """
    try:
        path = Path(text).expanduser()
    except RuntimeError:
        raise ValueError(f"{text}: there is no user of that name; a folder of your own begins with ~/") from None
    if not text.strip():
        raise ValueError("is empty; give a path, or leave it out")
    return path


GivenPath = Annotated[str, AfterValidator(lambda text: str(at_home(text).absolute()))]
"""A file or folder that the user names. It is made absolute when it is read, because workers run elsewhere."""


LAYER = "a whole number from 1 on, a fraction of the depth such as 1/2, or the layer nearest to one, such as ~2/3"


def _layer_ref(value: int | str) -> int | str:
    if re.fullmatch(r"~?[1-9]\d*/[1-9]\d*", value) if isinstance(value, str) else value >= 1:
        return value
    raise ValueError(f"a layer is {LAYER}")


LayerRef = Annotated[int | str, Field(json_schema_extra={WORDS: LAYER}), AfterValidator(_layer_ref)]


def resolve_layer(layer: int | str, n_layer: int) -> int:
    """Convert `layer` (a number, or a fraction of the depth) to a 1-based layer of a model with `n_layer` layers.

    `~2/3` is the layer nearest to that fraction, the upper one if two are as near.

    Raises:
        ValueError: no layer matches; the message lists what is legal.
    """
    exact = Fraction(layer.removeprefix("~")) * n_layer if isinstance(layer, str) else Fraction(layer)
    if isinstance(layer, str) and layer.startswith("~"):
        exact = Fraction(max(1, floor(exact + Fraction(1, 2))))
    if exact.denominator == 1 and 1 <= exact <= n_layer:
        return int(exact)
    fractions = ", ".join(f"{Fraction(i, n_layer)}" for i in range(1, n_layer))
    legal = f"1 to {n_layer} or the fractions {fractions}" if fractions else "1 alone"
    raise ValueError(f"hits no layer of a model with {n_layer}; legal: {legal}")


class Section(BaseModel):
    """Base class of all sections: immutable, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    def identity(self) -> dict[str, Any]:
        """The fields that decide the result, as JSON; they go into the keys of the stages that read this section."""
        return self.model_dump(mode="json")


class FieldError(ValueError):
    """A combination of fields is not legal. `path` is the field to fix, relative to the section; empty: all of it.

    The message names that of `path` and `others` which the user's own file has, before one of a profile or a preset.
    """

    def __init__(self, path: str | tuple[str, ...], message: str, *others: str) -> None:
        super().__init__(message)
        steps = path if isinstance(path, tuple) else path.split(".")  # a parameter of a search has dots in its name
        self.path = tuple(steps) if path else ()
        self.paths = (self.path, *(tuple(one.split(".")) for one in others))

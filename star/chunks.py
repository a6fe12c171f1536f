"""Long sequences in parts, as databases and commands take them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


def chunks(values: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield `values` in lists of `size`; the last one may be shorter."""
    rest = iter(values)
    while part := list(islice(rest, size)):
        yield part

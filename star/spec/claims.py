"""Claims of a paper as predicates over rows and metrics."""

from __future__ import annotations

from fractions import Fraction
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from star.spec.base import FieldError, Finite, NonNegative, Section, text_like
from star.spec.reporting import Better, Name

Margin = Annotated[str, text_like(r"^-?\d+(\.\d+)?%$", "a percentage, such as 5%")]


def _below_one(text: str) -> str:
    if Fraction(text) >= 1:
        raise ValueError("a share of the curve's last step lies below 1, such as 3/4")
    return text


Method = Annotated[
    Literal["welch", "paired", "block", "bootstrap"],
    BeforeValidator(lambda name: "welch" if name == "t" else name),  # its former name
]
"""How intervals over seeds are made."""

Where = Annotated[str, text_like(r"^[1-9]\d*/[1-9]\d*$", "a fraction below 1, such as 3/4"), AfterValidator(_below_one)]


class Predicate(Section):
    """The fields that every kind of predicate has."""

    metric: str = Field(description="stage/name, stage/curve@where, or one of `metrics`")


class Compares(Predicate):
    """One row's mean against each of several others'. Of a curve: at every step."""

    metric: str = Field(description="stage/name, a curve (at every step), stage/curve@where, or one of `metrics`")
    row: str
    than: list[str] = Field(min_length=1, description="rows to compare with, one by one")
    margin: Finite | Margin = Field(
        0.0,
        description='by how much at least, in units of the metric or, as in "5%", of the other; negative: at most so much worse',
    )


class Less(Compares):
    """The row's mean is lower than each of the others'."""

    kind: Literal["less"]


class Greater(Compares):
    """The row's mean is higher than each of the others'."""

    kind: Literal["greater"]


class BestAt(Predicate):
    """The row's mean is better than every other row's."""

    kind: Literal["best_at"]
    row: str
    better: Better
    rows: list[str] = Field(default_factory=list, description="the rows to be best of; all by default")


class Monotone(Predicate):
    """Means rise, or fall, from row to row: the trend does so, and no step goes the other way."""

    kind: Literal["monotone"]
    direction: Literal["increasing", "decreasing"]
    rows: list[str] = Field(default_factory=list, description="in order; all by default")

    @model_validator(mode="after")
    def _enough(self) -> Monotone:
        if len(self.rows) in (1, 2):
            raise FieldError("rows", "a trend needs three rows or more; compare two with less or greater")
        return self


class NoDeclineAfter(Predicate):
    """A curve's last value is not lower than its value at a step by more than `tolerance`."""

    kind: Literal["no_decline_after"]
    metric: str = Field(description="a curve, as stage/name")
    row: str
    after: Where = Field(description='a share of the last step, such as "3/4"; the recorded step nearest to it')
    tolerance: NonNegative = 0.0


class DeclineAfter(Predicate):
    """A curve's last value is lower than its value at a step."""

    kind: Literal["decline_after"]
    metric: str = Field(description="a curve, as stage/name")
    row: str
    after: Where = Field(description='a share of the last step, such as "3/4"; the recorded step nearest to it')


AnyPredicate = Annotated[
    Less | Greater | BestAt | Monotone | NoDeclineAfter | DeclineAfter, Field(discriminator="kind")
]


class Claim(Section):
    """A sentence, and what must all hold for it to be true."""

    id: Name
    text: str
    that: list[AnyPredicate] = Field(min_length=1)
    interval: Method | None = Field(
        None, description="of this claim's differences; the experiment's `interval` by default"
    )

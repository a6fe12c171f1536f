"""docs/spec.md is what the code says."""

from __future__ import annotations

from star.spec.reference import reference
from tests.helpers import ROOT


def test_the_reference_is_current() -> None:
    assert (ROOT / "docs" / "spec.md").read_text() == reference(), "run: python -m star.spec.reference > docs/spec.md"

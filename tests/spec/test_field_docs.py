"""docs/spec.md is what the code says."""

from __future__ import annotations

from star.spec.field_docs import field_docs
from tests.helpers import ROOT


def test_the_reference_is_current() -> None:
    assert (ROOT / "docs" / "spec.md").read_text() == field_docs(), "run: python -m star.spec.field_docs > docs/spec.md"

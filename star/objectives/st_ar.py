"""ST-AR's terms, from its section of the spec."""

from __future__ import annotations

from star.objectives.contrastive import Contrastive
from star.objectives.hidden_keys import HiddenKeys
from star.objectives.mim import Mim
from star.objectives.next_token import NextToken
from star.objectives.term import Term
from star.pipeline.config.selfguided import SelfGuidedSpec


def st_ar(spec: SelfGuidedSpec, contrastive_layer: int) -> list[Term]:
    """The terms of Eq. 8 of ST-AR (arXiv:2509.15185): L_AR + alpha L_MIM + beta/2 (L_step + L_view). A term whose weight is 0 is not built.

    Args:
        contrastive_layer: 1-based layer whose output is contrasted.
    """
    terms: list[Term] = [NextToken()]
    if spec.mim:
        terms.append(Mim(spec))
    if spec.contrastive:
        terms.append(Contrastive(spec, contrastive_layer))
    if spec.masked:
        terms.append(HiddenKeys(spec))
    return terms

"""The former place of the sections of a run (`star.spec.former`)."""

from __future__ import annotations

from star.spec.former import moved

__getattr__ = moved(__name__)

"""The former place of what a loss term of a plugin may know of its run (`star.spec.former`)."""

from __future__ import annotations

from star.spec.former import moved

__getattr__ = moved(__name__, {"Setting": "star.pipeline.config.setting:Setting"})

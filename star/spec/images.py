"""The former place of the sections of images and tokenizer (`star.spec.former`)."""

from __future__ import annotations

from star.spec.former import moved

__getattr__ = moved(__name__, {"SOURCES": "star.pipeline.config.dataset:SOURCES"})

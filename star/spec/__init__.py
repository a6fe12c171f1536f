"""Specs: frozen pydantic sections, the experiment built from them, and the keys that identify each piece of work."""

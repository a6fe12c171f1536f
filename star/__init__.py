"""star: reproduce ST-AR (arXiv:2509.15185), ablate it, and trust the resulting table."""

__version__ = "0.1.0"

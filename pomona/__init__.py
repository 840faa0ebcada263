"""pomona: the whole life of a pre-trained transformer under a compute budget."""

from __future__ import annotations

__version__ = "0.1.0"

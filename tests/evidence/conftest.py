from __future__ import annotations

from tests.stages.conftest import fakes, texts

__all__ = ["fakes", "texts"]

"""What becomes of a key-value cache after it was made: one policy in each file."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from pomona.examination.scbench.policies.dense import Dense
from pomona.examination.scbench.policies.kivi import Kivi
from pomona.examination.scbench.policies.policy import CachePolicy, Kept
from pomona.examination.scbench.policies.quest import Quest
from pomona.examination.scbench.policies.snapkv import SnapKV
from pomona.examination.scbench.policies.streaming import Streaming

Policy = Annotated[Dense | Streaming | SnapKV | Quest | Kivi, Field(discriminator="policy")]

__all__ = ["CachePolicy", "Dense", "Kept", "Kivi", "Policy", "Quest", "SnapKV", "Streaming"]

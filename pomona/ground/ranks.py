"""Several processes of one run, as torchrun starts them: who speaks and writes (rank 0), and how all agree.

With one process nothing here costs anything, and torch is not imported.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from functools import cache
from typing import TypeVar

PATIENCE = timedelta(days=7)
"""How long a rank waits for another one, which may be reading a corpus; torchrun ends all when one fails."""

T = TypeVar("T")


def world_size() -> int:
    """Processes of this run."""
    started = all(name in os.environ for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"))
    return int(os.environ["WORLD_SIZE"]) if started else 1


def rank() -> int:
    """Number of this process, from 0."""
    return int(os.environ["RANK"]) if world_size() > 1 else 0


def is_main() -> bool:
    """Whether this process is the one that speaks and writes."""
    return rank() == 0


@cache
def join() -> None:
    """Meet the other processes; gloo on processors, the vendor's library on accelerators."""
    if world_size() > 1:
        import torch
        from accelerate import PartialState

        PartialState(cpu=not torch.accelerator.is_available(), timeout=PATIENCE)


def wait() -> None:
    """Go on when all ranks have come here."""
    if world_size() > 1:
        from accelerate import PartialState

        join()
        PartialState().wait_for_everyone()


def from_main(make: Callable[[], T]) -> T:
    """What `make` gives on rank 0, which alone calls it, on all ranks."""
    if world_size() == 1:
        return make()
    from accelerate.utils import broadcast_object_list

    join()
    box: list[T | None] = [make() if is_main() else None]
    value: T = broadcast_object_list(box, from_process=0)[0]
    return value

"""Leaving cleanly: the first SIGINT or SIGTERM asks for a checkpoint, a second SIGINT stops at once."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any


class StopRequest:
    """Context manager that notes SIGINT and SIGTERM instead of dying in the middle of a step."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number

    @property
    def exit_code(self) -> int:
        """128 + the signal's number, as shells and schedulers expect."""
        return 128 + (self.received or signal.SIGTERM)  # None: another process was asked

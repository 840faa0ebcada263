"""What a contender reports to. The standard library only: it is imported before a contender's clock has gone far."""

from __future__ import annotations

import json
import os
import time
from typing import IO, Any, Self


class Meter:
    """Messages from a contender, on a pipe of their own, so that libraries may print what they like.

    In an interleaved measurement `tick` is called once per unit of work (an optimizer step): after each round's
    worth of them it reports the seconds and sleeps until this contender's next turn. In a fresh run there are no
    rounds, and `tick` returns at once.
    """

    def __init__(self, send: IO[str], receive: IO[str], ticks_per_round: int = 0, warmup_ticks: int = 0) -> None:
        self._send, self._receive = send, receive
        self._ticks_per_round, self._left = ticks_per_round, warmup_ticks
        self._warming_up = True
        self._values: dict[str, float] = {}
        self._start = time.perf_counter()

    @classmethod
    def offline(cls) -> Self:
        """A meter that goes nowhere: for trying a contender by hand."""
        return cls(open(os.devnull, "w", encoding="utf-8"), open(os.devnull, encoding="utf-8"))  # noqa: PTH123

    def report(self, name: str, **values: Any) -> None:
        """Send one event with the time on the machine's monotonic clock, which the parent shares."""
        self._send.write(json.dumps({"event": name, "at": time.monotonic(), **values}) + "\n")
        self._send.flush()

    def note(self, **values: float) -> None:
        """Add values to the round that is under way (a rate that was measured inside it, a loss)."""
        self._values.update(values)

    def tick(self) -> None:
        """One unit of work is done."""
        if not self._ticks_per_round:
            return
        self._left -= 1
        if self._left > 0:
            return
        seconds = time.perf_counter() - self._start
        if self._warming_up:
            self.report("warm", warmup_seconds=seconds)
        else:
            self.report("round", seconds=seconds, ticks=self._ticks_per_round, **self._values)
        self._warming_up, self._values, self._left = False, {}, self._ticks_per_round
        if self._receive.readline().strip() != "go":  # the parent has seen enough, or is gone
            self._send.close()
            os._exit(0)  # from inside somebody's training loop: nothing there is worth unwinding
        self._start = time.perf_counter()

"""The process of one contender: `python -m benchmarks.worker PROTOCOL`, started by the harness, never by hand."""

from __future__ import annotations

import importlib
import json
import os
import sys

from benchmarks.meter import Meter


def main(protocol_text: str) -> None:
    """Connect the pipes and call the contender."""
    protocol = json.loads(protocol_text)
    for descriptor in (protocol["send"], protocol["receive"]):
        os.set_inheritable(descriptor, False)  # or a helper process of the contender would keep the pipes open
    module, _, function = protocol["target"].partition(":")
    with os.fdopen(protocol["send"], "w") as send, os.fdopen(protocol["receive"]) as receive:
        meter = Meter(send, receive, protocol["ticks_per_round"], protocol["warmup_ticks"])
        getattr(importlib.import_module(module), function)(meter, **protocol["options"])


if __name__ == "__main__":
    main(sys.argv[1])

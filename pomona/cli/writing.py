"""`pomona generate`: the words of a model on standard output."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from pomona.ground.console import console


def write_on(model: str, prompts: Sequence[str], **choices: Any) -> None:
    """Print each prompt with its continuation as it is written; the speed goes to standard error."""
    from pomona.runtime import Generator

    generator = Generator.load(model)
    for prompt in prompts:
        sys.stdout.write(prompt)
        (made,) = generator.generate(prompt, stream=lambda _, piece: _write(piece), **choices)
        _write("\n")
        console().print(f"[dim]{len(made.tokens)} tokens, {made.tokens_per_second:,.0f} per second[/]")


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()

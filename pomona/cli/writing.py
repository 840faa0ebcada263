"""`pomona generate`: the words of a model on standard output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.text import Text

from pomona.ground.console import console, output


def write_on(model: str, prompts: Sequence[str], **choices: Any) -> None:
    """Print each prompt with its continuation; the speed goes to standard error."""
    from pomona.runtime import generate

    for prompt, result in zip(prompts, generate(model, list(prompts), **choices), strict=True):
        output().print(Text(prompt, "bold") + Text(result.text), soft_wrap=True)
        console().print(f"[dim]{result.tokens_per_second:.0f} tokens/s[/]")

"""A document, and how its text is prepared before anything is counted or compared."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

_BREAKS = re.compile(r"\r\n?")
_TRAILING = re.compile(r"[ \t]+$", re.MULTILINE)
_EMPTY_LINES = re.compile(r"\n{4,}")


@dataclass(frozen=True)
class Document:
    """One text with what is known about it; `metadata` holds at least `source`."""

    text: str
    metadata: Mapping[str, str] = field(default_factory=dict)


def tidy(text: str) -> str:
    """Line ends as \\n, none with spaces before it, at most two empty lines in a row, none first or last; no NUL."""
    text = _BREAKS.sub("\n", text).replace("\0", "").removeprefix("\ufeff")
    text = _TRAILING.sub("", text)
    return _EMPTY_LINES.sub("\n\n\n", text).strip("\n")


def cut(text: str, max_bytes: int) -> Iterator[str]:
    """Pieces of at most `max_bytes` UTF-8 bytes, cut at the last blank line, line end or character that fits."""
    data = text.encode()
    while len(data) > max_bytes:
        head = data[:max_bytes]
        at = head.rfind(b"\n\n") + 2
        if at < max_bytes // 4:
            at = head.rfind(b"\n") + 1
        if at < max_bytes // 4:
            at = max_bytes
            while data[at] & 0xC0 == 0x80:  # never inside a character
                at -= 1
        yield data[:at].decode().strip("\n")
        data = data[at:].lstrip(b"\n")
    if data:
        yield data.decode()

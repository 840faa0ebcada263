"""Numbers and foreign text as a reader sees them: fixed digits, one unit, nothing invisible."""

from __future__ import annotations

import math
import unicodedata

SPACE = "\u202f"
"""Narrow no-break space between a number and its unit."""

GAP = "\u00a0"
"""No-break space between two numbers with their units."""

MINUS = "\u2212"
TIMES = "\u00d7"


def number(value: float, digits: int = 3) -> str:
    """`value` with `digits` significant digits, without exponent: 0.0123, 1.23, 123, 12,345."""
    if not math.isfinite(value):
        return "not finite"
    if value == 0:
        return "0"
    value = float(f"{value:.{digits - 1}e}")  # first, because 0.9996 has one digit more before the point than it seems
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{places}f}"
    return text.replace("-", MINUS)


def fixed(value: float, places: int) -> str:
    """`value` with `places` decimals, so that a column of them lines up."""
    return f"{value:,.{places}f}".replace("-", MINUS) if math.isfinite(value) else "not finite"


def signed(value: float, places: int) -> str:
    """`value` with `places` decimals and its sign; a value that rounds to zero has none."""
    text = f"{value:+,.{places}f}" if math.isfinite(value) else "not finite"
    return (text[1:] if not text.strip("+-0.,") else text).replace("-", MINUS)


def scaled(value: float, unit: str, names: str = " kMGTPEZ") -> str:
    """`value` with three digits and a decimal prefix: 23.5 MB, 1.54 PFLOP."""
    if not math.isfinite(value):
        return "not finite"
    steps = 0
    while abs(value) >= 999.5 and steps < len(names) - 1:  # 999.5 would be printed as 1000
        value, steps = value / 1000, steps + 1
    shown = number(value, 3) if steps or not float(value).is_integer() else f"{value:.0f}"
    return (shown + SPACE + names[steps].strip() + unit).rstrip(SPACE).replace("-", MINUS)


def flops(value: float) -> str:
    """Floating-point operations: 1.54 PFLOP."""
    return scaled(value, "FLOP")


def data_size(value: float) -> str:
    """Bytes, decimal prefixes as on a disk's label: 23.5 MB."""
    return scaled(value, "B")


def count(value: float) -> str:
    """A number of things: 5.87 M."""
    return scaled(value, "")


def duration(seconds: float) -> str:
    """Seconds as a person says them: 850 ms, 4.2 s, 3 min 20 s, 2 h 5 min."""
    if not math.isfinite(seconds):
        return "not finite"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f}{SPACE}ms" if seconds >= 0.0005 else f"0{SPACE}s"
    if seconds < 9.95:
        return f"{seconds:.1f}{SPACE}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}{SPACE}s"
    large, small, names = (whole // 60, whole % 60, ("min", "s"))
    if whole >= 3600:
        large, small, names = (whole // 3600, whole % 3600 // 60, ("h", "min"))
    return f"{large}{SPACE}{names[0]}" + (f"{GAP}{small}{SPACE}{names[1]}" if small else "")


def percent(share: float, places: int = 1) -> str:
    """A share as percent: 5.3 %."""
    return fixed(100 * share, places) + SPACE + "%"


def visible(text: str, *, lines: bool = False) -> str:
    """`text` with everything that acts instead of being seen made visible.

    Control characters become their pictures (a NUL shows as ␀, an escape as ␛), the marks that turn the direction
    of writing show as ⟨U+202E⟩, and what is no character at all becomes �. Any script stays as it is.

    Args:
        text: from data, a model, a file name, anywhere.
        lines: keep line breaks and tabs (for text that is shown as a block); otherwise they become spaces.
    """
    return "".join(_shown(character, lines) for character in text)


def shorten(text: str, limit: int) -> str:
    """`visible` text of at most `limit` characters, cut in the middle so that both ends stay."""
    shown = visible(text)
    if len(shown) <= limit:
        return shown
    head = (limit - 1) * 2 // 3
    return f"{shown[:head].rstrip()}…{shown[len(shown) - (limit - 1 - head) :].lstrip()}"


def _shown(character: str, lines: bool) -> str:
    if character in "\n\t" or character == "\r":
        return character if lines and character != "\r" else " "
    if character < " ":
        return chr(0x2400 + ord(character))
    if character == "\x7f":
        return "\u2421"
    category = unicodedata.category(character)
    if category == "Cs" or 0xFFFE <= ord(character) & 0xFFFF <= 0xFFFF:
        return "\ufffd"
    if category == "Cc" or character in _DIRECTION or character in "\u2028\u2029\ufeff":
        return f"\u27e8U+{ord(character):04X}\u27e9"
    return character


_DIRECTION = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Marks that turn the direction of what follows: in a name they can make it read as something else."""

"""What a pickle would call, read off its opcodes: nothing is unpickled.

A pickle is a program for a small stack machine. Its only way to the outside is to fetch a name from a module (`GLOBAL`,
`INST`, `STACK_GLOBAL`) and call it, so the names that it fetches say what it can do. They are compared with those that
saved tensors need; everything else is reported.
"""

from __future__ import annotations

import io
import pickletools
import re
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO, Literal

from pomona.registry.contents import Contents, as_zip
from pomona.registry.schema import Danger

Level = Literal["harmless", "unknown", "dangerous"]

SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy", ".npz", ".dill")
"""Files that are pickles, or may hold some."""
LARGEST = 1 << 30
"""Bytes of the longest pickle that is read; tensors lie beside the pickle, not in it."""

HARMLESS = {
    "collections": r"OrderedDict|defaultdict",
    "torch": r"\w+Storage|Size|device|dtype|float\d+|bfloat16|int\d+|uint8|bool|Tensor",
    "torch.storage": r"\w+Storage|UntypedStorage",
    "torch._utils": r"_rebuild_(tensor|tensor_v2|parameter|parameter_with_state|sparse_tensor|qtensor)",
    "torch._tensor": r"_rebuild_from_type_v2|Tensor",
    "torch.nn.parameter": r"Parameter",
    "numpy": r"dtype|ndarray|float\d+|int\d+|bool_",
    "numpy.core.multiarray": r"_reconstruct|scalar",
    "numpy._core.multiarray": r"_reconstruct|scalar",
    "_codecs": r"encode",
    "builtins": r"set|frozenset|list|dict|tuple|int|float|bool|str|bytes|bytearray|complex|slice|range",
    "__builtin__": r"set|frozenset|list|dict|tuple|int|float|bool|str|bytes|bytearray|complex|slice|xrange|unicode",
    "datetime": r"datetime|date|timedelta",
}
"""Names that saved tensors and plain values need, by module."""
DANGEROUS = {
    *("os", "posix", "nt", "subprocess", "sys", "socket", "shutil", "pty", "commands", "asyncio", "multiprocessing"),
    *(
        "runpy",
        "importlib",
        "imp",
        "pip",
        "code",
        "codeop",
        "ctypes",
        "webbrowser",
        "requests",
        "urllib",
        "http",
        "pdb",
    ),
    *(
        "timeit",
        "cProfile",
        "profile",
        "bdb",
        "pickle",
        "_pickle",
        "dill",
        "cloudpickle",
        "marshal",
        "types",
        "operator",
    ),
    *("functools", "ftplib", "smtplib", "telnetlib", "tempfile", "pathlib", "io", "_io", "threading", "signal", "site"),
}
"""Top modules that run programs, open connections or files, or call whatever they are given."""
UNREADABLE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)
"""What archives raise that are damaged, locked, or packed in an unknown way."""
OPENERS = {"GLOBAL", "INST"}
STRINGS = {
    *("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE", "STRING", "BINSTRING", "SHORT_BINSTRING"),
}


def level_of(module: str, name: str) -> Level:
    """How dangerous it is that a pickle fetches `module.name`.

    Example:
        >>> level_of("torch", "FloatStorage"), level_of("os", "system"), level_of("mine", "Thing")
        ('harmless', 'dangerous', 'unknown')
    """
    pattern = HARMLESS.get(module)
    if pattern is not None and re.fullmatch(pattern, name):
        return "harmless"
    if module in ("builtins", "__builtin__") or module.split(".")[0] in DANGEROUS:
        return "dangerous"
    return "unknown"


def fetched(stream: IO[bytes]) -> Iterator[tuple[str, str]]:
    """(module, name) of everything that the pickles in a stream fetch, one pickle after the other.

    A name that is put together while the pickle runs is yielded as `("?", "?")`.

    Raises:
        ValueError: the stream stops being a pickle. What was fetched before has been yielded, as it would have run.
    """
    memo: dict[int, str] = {}
    recent: list[str | None] = []  # what the last operations pushed: a string, or something else
    while stream.read(1):
        stream.seek(-1, io.SEEK_CUR)
        for opcode, argument, _ in pickletools.genops(stream):
            name = opcode.name
            if name in OPENERS:
                module, _, attribute = str(argument).partition(" ")
                yield module, attribute
                recent.append(None)
            elif name == "STACK_GLOBAL":
                module_name, attribute_name = recent[-2:] if len(recent) >= 2 else (None, None)
                yield module_name or "?", attribute_name or "?"
                recent.append(None)
            elif name.startswith("EXT"):
                yield "copyreg", "an extension"
                recent.append(None)
            elif name in STRINGS:
                recent.append(str(argument))
            elif name == "MEMOIZE":
                memo[len(memo)] = (recent[-1] if recent else None) or ""
            elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
                memo[int(argument or 0)] = (recent[-1] if recent else None) or ""
            elif name in ("GET", "BINGET", "LONG_BINGET"):
                recent.append(memo.get(int(argument or 0)) or None)
            elif name not in ("PROTO", "FRAME", "STOP"):
                recent.append(None)
            del recent[:-8]
        memo.clear()
        if stream.tell() >= LARGEST:
            raise ValueError("longer than is read")


def dangers_of(contents: Contents, name: str) -> list[Danger]:
    """What could run when a file is loaded with a pickle reader; nothing where it is no pickle, or a harmless one."""
    found: dict[tuple[str, str], Danger] = {}
    try:
        for inside, stream in _pickles(contents, name):
            where = f"{name}:{inside}" if inside else name
            for key, danger in _read(where, stream, certain=bool(inside) or not name.endswith((".bin", ".npy"))):
                found.setdefault(key, danger)
    except UNREADABLE as error:  # readers that do not check checksums may well load it
        found[("", "")] = Danger(file=name, level="unknown", what=f"is an archive that is not whole: {error}")
    return list(found.values())


def _read(where: str, stream: IO[bytes], *, certain: bool) -> Iterator[tuple[tuple[str, str], Danger]]:
    """What one stream fetches that is not harmless, by its name. `certain`: it can be nothing but a pickle."""
    calls, harmful = 0, False
    try:
        for module, attribute in fetched(stream):
            calls += 1
            if (level := level_of(module, attribute)) != "harmless":
                harmful = True
                what = f"calls {module}.{attribute}"
                yield (module, attribute), Danger(file=where, level=level, what=what)
    except (ValueError, UnicodeDecodeError, OverflowError) as error:
        # Tensors follow a legacy pickle, which is where it stops; other files are no pickles from the start.
        if harmful or (certain and not calls):
            reason = str(error).partition("\n")[0][:80]
            yield ("", ""), Danger(file=where, level="unknown", what=f"is not a whole pickle: {reason}")


def is_pickle(contents: Contents, name: str) -> bool:
    """Whether a file is one that is loaded by unpickling, judged by its content where that is telling."""
    if name.endswith(SUFFIXES):
        return True
    with contents.open(name) as file:
        return looks_like_one(file)


def _pickles(contents: Contents, name: str) -> Iterator[tuple[str, IO[bytes]]]:
    """The pickles of a file: those inside a zip by their names, and the file itself unless it is that zip."""
    with as_zip(contents, name) as archive:
        if archive is not None:
            for entry in archive.infolist():
                with archive.open(entry) as file:
                    if looks_like_one(file) or entry.filename.endswith((".pkl", ".npy")):
                        yield entry.filename, _after_array(file)
    with contents.open(name) as file:
        if archive is None or looks_like_one(file):  # a pickle may lie before a zip in one file
            yield "", _after_array(file)


def looks_like_one(file: IO[bytes]) -> bool:
    """Whether a file begins as pickles do that are not text. Leaves the file at its beginning."""
    head = file.read(2)
    file.seek(0)
    return len(head) == 2 and head[0] == 0x80 and 2 <= head[1] <= 5


def _after_array(file: IO[bytes]) -> IO[bytes]:
    """A file from the pickle on that it holds: of a NumPy file, that of an array of objects; others hold none."""
    head = file.read(12)
    file.seek(0)
    if head[:6] != b"\x93NUMPY":
        return file
    start = 12 if head[6] >= 2 else 10
    described = file.read(start + int.from_bytes(head[8:start], "little"))
    return file if b"|O" in described else io.BytesIO()

"""Docstrings and functions of Python source text, found by parsing it; nothing is imported or run."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
import warnings
from collections.abc import Iterator
from itertools import chain

from pomona.data.documents import Document, tidy

_DOCUMENTING_CALLS = frozenset({"add_docstr", "add_newdoc", "_add_newdoc", "add_newdoc_for_scalar_type"})
_SPACE = re.compile(r"\s+")
_MAX_HEADER = 400
_MIN_DOCSTRING = 32

_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def parse(source: str) -> ast.Module | None:
    """The syntax tree, or None where this Python cannot parse the text. Warnings about the text are not shown."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return ast.parse(source)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None


def docstring_documents(source: str, module: str) -> Iterator[Document]:
    """One document for the module's docstring, for each function and for each class with its methods.

    Each docstring stands under the header of what it documents. `name` and `kind` (module, class or function) are
    kept as metadata.
    """
    if '"""' not in source and "'''" not in source:
        return
    tree = parse(source)
    if tree is None:
        return
    lines = source.splitlines()
    text = docstring(tree)
    if text:
        yield Document(f"{module}\n\n{text}\n", {"name": module, "kind": "module"})
    for node in _statements(tree.body):
        if isinstance(node, ast.ClassDef):
            text = "\n\n\n".join(_class_parts(node, node.name, lines))
            if text:
                yield Document(f"{module}\n\n{text}\n", {"name": f"{module}.{node.name}", "kind": "class"})
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            text = docstring(node)
            if text:
                text = f"{module}\n\n{header(node, node.name, lines)}\n\n{text}\n"
                yield Document(text, {"name": f"{module}.{node.name}", "kind": "function"})
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            text = _attached_docstring(node.value)
            if text:
                yield Document(f"{module}\n\n{text}\n", {"name": module, "kind": "function"})


def function_pairs(source: str, module: str) -> Iterator[Document]:
    """A document for every function or method that has a docstring: the docstring, an empty line, the code without it.

    The metadata `docstring_length` (characters) separates the two again: see `split_pair`.
    """
    if '"""' not in source and "'''" not in source:
        return
    tree = parse(source)
    if tree is None:
        return
    lines = source.splitlines()
    for node, name in _functions(tree.body, ""):
        text = tidy(docstring(node))
        if not text or len(node.body) < 2:
            continue
        first = min([node.lineno, *(each.lineno for each in node.decorator_list)]) - 1
        own = node.body[0]
        code = [*lines[first : own.lineno - 1], *lines[own.end_lineno or own.lineno : node.end_lineno]]
        function = tidy(textwrap.dedent("\n".join(code)))
        facts = {"name": f"{module}.{name}", "kind": "pair", "docstring_length": str(len(text))}
        yield Document(f"{text}\n\n{function}", facts)


def split_pair(document: Document) -> tuple[str, str]:
    """The docstring and the function of a document of `env:pairs`."""
    length = int(document.metadata["docstring_length"])
    return document.text[:length], document.text[length + 2 :]


def docstring(node: ast.Module | _Definition) -> str:
    """The cleaned docstring of a node, or an empty string when it has none worth reading."""
    body = node.body
    if not body or not isinstance(body[0], ast.Expr) or not isinstance(body[0].value, ast.Constant):
        return ""
    text = body[0].value.value
    return inspect.cleandoc(text) if isinstance(text, str) and len(text) >= _MIN_DOCSTRING else ""


def header(node: _Definition, name: str, lines: list[str]) -> str:
    """`name(parameters) -> result` in one line, as the source writes it."""
    first, last = node.lineno - 1, max(node.lineno, node.body[0].lineno - 1)
    text = _SPACE.sub(" ", " ".join(line.partition("  #")[0] for line in lines[first:last])).strip()
    keyword = "class" if isinstance(node, ast.ClassDef) else "def"
    text = text.partition(f"{keyword} {node.name}")[2].removesuffix(":").replace("( ", "(").replace(", )", ")")
    text = f"{name}{text}" if len(text) <= _MAX_HEADER else f"{name}(...)"
    return f"class {text}" if isinstance(node, ast.ClassDef) else text


def _class_parts(node: ast.ClassDef, name: str, lines: list[str]) -> Iterator[str]:
    text = docstring(node)
    if text:
        yield f"{header(node, name, lines)}\n\n{text}"
    for child in _statements(node.body):
        if isinstance(child, ast.ClassDef):
            yield from _class_parts(child, f"{name}.{child.name}", lines)
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            text = docstring(child)
            if text:
                yield f"{header(child, f'{name}.{child.name}', lines)}\n\n{text}"


def _functions(body: list[ast.stmt], prefix: str) -> Iterator[tuple[ast.FunctionDef | ast.AsyncFunctionDef, str]]:
    for node in _statements(body):
        if isinstance(node, ast.ClassDef):
            yield from _functions(node.body, f"{prefix}{node.name}.")
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node, prefix + node.name


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a body, also those inside `if` and `try`."""
    for node in body:
        if isinstance(node, ast.If):
            yield from _statements(node.body)
            yield from _statements(node.orelse)
        elif isinstance(node, ast.Try):
            handlers = chain.from_iterable(handler.body for handler in node.handlers)
            yield from _statements([*node.body, *handlers, *node.orelse, *node.finalbody])
        else:
            yield node


def _attached_docstring(call: ast.Call) -> str:
    """The text that a call such as `add_docstr(torch.abs, \"\"\"...\"\"\")` attaches to a compiled function."""
    target = call.func
    name = target.attr if isinstance(target, ast.Attribute) else target.id if isinstance(target, ast.Name) else ""
    if name not in _DOCUMENTING_CALLS:
        return ""
    strings = [
        node.value
        for argument in call.args
        for node in ast.walk(argument)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    longest = max(strings, key=len, default="")
    return inspect.cleandoc(longest) if len(longest) >= _MIN_DOCSTRING else ""

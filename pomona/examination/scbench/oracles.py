"""A program for every task that answers from context and question alone: the proof that answers can be found."""

from __future__ import annotations

import ast
import json
import re
import statistics
from collections.abc import Callable

from pomona.examination.scbench.tasks import LABELS

Oracle = Callable[[str, str], str]


def kv(context: str, question: str) -> str:
    """Look the key up."""
    (line,) = (line for line in context.splitlines() if line.startswith('{"'))
    return str(json.loads(line)[_quoted(question)[0]])


def prefix_suffix(context: str, question: str) -> str:
    """Try every string."""
    start, end = _quoted(question)
    return next(line for line in context.splitlines() if line.startswith(start) and line.endswith(end))


def vt(context: str, question: str) -> str:
    """Follow the assignments."""
    source = dict(line.split(" = ") for line in context.splitlines())
    name = re.findall(r"V\w{5}", question)[0]
    while not name.isdigit():
        name = source[name]
    return str(name)


def repoqa(context: str, question: str) -> str:
    """The source of the function whose docstring begins so."""
    return _described(context, question.split("described by: ")[1].strip())[0]


def qa(context: str, question: str) -> str:
    """Its name."""
    described = re.split(r"description ?: ", question)[1]
    return _described(context, re.split(r" ?\? (?:It is called|Elle s'appelle)", described)[0])[1]


def choice(context: str, question: str) -> str:
    """The letter of the module above the function."""
    name = re.findall(r"function (\w+)\?", question)[0]
    before = context[: re.search(rf"def {name}\(", context).start()]  # type: ignore[union-attr]
    module = re.findall(r"# module: (\w+)", before)[-1]
    return str(re.findall(rf"\((\w)\) {module} ", question)[0])


def many_shot(context: str, question: str) -> str:
    """The label of an example with the same remainder."""
    shots = (line.split(" -> ") for line in context.splitlines())
    labels = {int(number) % len(LABELS): label for number, label in shots}
    return labels[int(question.split(" -> ")[0]) % len(LABELS)]


def mf(context: str, question: str) -> str:
    """Compute it."""
    numbers = [int(word) for word in context.split()]
    measures: dict[str, Callable[[list[int]], float]] = {
        "largest": max,
        "smallest": min,
        "median": statistics.median,
        "most frequent": statistics.mode,
        "first": lambda numbers: numbers[0],
    }
    return str(next(measure(numbers) for name, measure in measures.items() if name in question))


def summary(context: str, question: str) -> str:
    """First lines of the docstrings below the module's name."""
    module = re.findall(r"module (\w+) do", question)[0]
    parts = [part for part in _parts(context) if part.startswith(f"# module: {module}\n")]
    return "\n".join(_first_line(part) for part in parts)


def alternating(one: Oracle, other: Oracle) -> Oracle:
    """By what the question looks like: keys of JSON are quoted."""
    return lambda context, question: (other if '"' in question else one)(context, question)


ORACLES: dict[str, Oracle] = {
    "kv": kv,
    "prefix_suffix": prefix_suffix,
    "vt": vt,
    "repoqa": repoqa,
    "qa": qa,
    "qa_other_language": qa,
    "choice": choice,
    "many_shot": many_shot,
    "mf": mf,
    "summary": summary,
    "summary_with_needles": alternating(summary, kv),
    "repoqa_and_kv": alternating(repoqa, kv),
}


def _quoted(text: str) -> list[str]:
    return re.findall(r'"([^"]*)"', text)


def _parts(context: str) -> list[str]:
    return [part.rstrip() for part in re.split(r"(?m)^(?=# module: )", context) if part.startswith("# module: ")]


def _first_line(part: str) -> str:
    code = part.split("\n", 1)[1].split('\n\n{"')[0]
    (node,) = (node for node in ast.parse(code).body if isinstance(node, ast.FunctionDef))
    return (ast.get_docstring(node) or "").splitlines()[0]


def _described(context: str, description: str) -> tuple[str, str]:
    """Source and name of the function."""
    for part in _parts(context):
        code = part.split("\n", 1)[1].split('\n\n{"')[0]
        if _first_line(part) == description:
            return code, re.findall(r"def (\w+)\(", code)[0]
    raise LookupError(description)

"""The twelve tasks of SCBench, made offline: seeded strings, numbers, and functions of the standard library.

Each maker takes the length of the context, the number of turns and a source of chance. Every answer can be read off the
context, which `oracles.py` proves.
"""

from __future__ import annotations

import json
import random
import statistics
from collections.abc import Callable

from pomona.examination.scbench.example import Example, Group, Turn
from pomona.examination.scbench.functions import Function, functions
from pomona.ground.errors import ConfigError, did_you_mean

Maker = Callable[[int, int, random.Random], tuple[str, tuple[Turn, ...]]]
LABELS = ("red", "green", "blue", "white")


def hexes(count: int, draw: random.Random, digits: int = 8) -> list[str]:
    """Different random hexadecimal strings."""
    found: dict[str, None] = {}
    while len(found) < count:
        found[f"{draw.getrandbits(4 * digits):0{digits}x}"] = None
    return list(found)


def kv(size: int, turns: int, draw: random.Random) -> tuple[str, tuple[Turn, ...]]:
    """Values of keys in a JSON object of random strings; a value has two parts."""
    count = max(turns, size // 33)
    strings = hexes(3 * count, draw)
    values = (f"{one}-{other}" for one, other in zip(strings[1::3], strings[2::3], strict=True))
    pairs = dict(zip(strings[::3], values, strict=True))
    asked = draw.sample(list(pairs), turns)
    return json.dumps(pairs), tuple(Turn(f'What is the value of "{key}"? It is ', pairs[key]) for key in asked)


def prefix_suffix(size: int, turns: int, draw: random.Random) -> tuple[str, tuple[Turn, ...]]:
    """The string that begins and ends in a given way."""
    strings = hexes(max(turns, size // 17), draw, 16)
    asked = draw.sample(strings, turns)
    question = 'Which string starts with "{}" and ends with "{}"? It is '
    return "\n".join(strings), tuple(Turn(question.format(each[:6], each[-6:]), each) for each in asked)


def vt(size: int, turns: int, draw: random.Random) -> tuple[str, tuple[Turn, ...]]:
    """The number that a variable has after assignments of variables to variables."""
    names = [f"V{each}" for each in hexes(max(4 * turns, size // 20), draw, 5)]
    value: dict[str, int] = {}
    source: dict[str, str] = {}
    for place, name in enumerate(names):
        if place < 2 or draw.random() < 0.3:
            value[name], source[name] = (number := draw.randrange(10_000, 99_999)), str(number)
        else:
            other = names[draw.randrange(place)]
            value[name], source[name] = value[other], other
    lines = [f"{name} = {source[name]}" for name in names]
    indirect = [name for name in names if not source[name].isdigit()]
    asked = draw.sample(indirect if len(indirect) >= turns else names, turns)
    return "\n".join(lines), tuple(Turn(f"What number is {name}? It is ", str(value[name])) for name in asked)


def chosen(size: int, draw: random.Random) -> list[Function]:
    """Functions in any order, as many as fit."""
    found: list[Function] = []
    length = 0
    for each in draw.sample(functions(), len(functions())):
        if length + len(each.code) <= size or len(found) < 8:
            found.append(each)
            length += len(each.code) + 40
    return found


def listing(found: list[Function]) -> str:
    """Source of functions, each under the name of its module."""
    return "\n\n".join(f"# module: {each.module}\n{each.code}" for each in found)


def repoqa(size: int, turns: int, draw: random.Random) -> tuple[str, tuple[Turn, ...]]:
    """The function that does what a description says."""
    found = chosen(size, draw)
    asked = draw.sample(found, turns)
    return listing(found), tuple(
        Turn(f"Write down the function that is described by: {each.description}\n", each.code, "code") for each in asked
    )


def _about(question: str) -> Maker:
    def make(size: int, turns: int, draw: random.Random) -> tuple[str, tuple[Turn, ...]]:
        found = chosen(size, draw)
        asked = draw.sample(found, turns)
        return listing(found), tuple(Turn(question.format(each.description), each.name) for each in asked)

    return make


qa = _about("Which function has the description: {}? It is called ")
qa_other_language = _about("Quelle fonction a la description : {} ? Elle s'appelle ")


def choice(size: int, turns: int, draw: random.Random) -> tuple[str, tuple[Turn, ...]]:
    """Which of four modules a function is of."""
    found = chosen(size, draw)
    modules = sorted({each.module for each in functions()})
    made = []
    for each in draw.sample(found, turns):
        options = [each.module, *draw.sample([module for module in modules if module != each.module], 3)]
        draw.shuffle(options)
        shown = " ".join(f"({letter}) {option}" for letter, option in zip("ABCD", options, strict=True))
        question = f"Of which module is the function {each.name}? {shown} Answer: "
        made.append(Turn(question, "ABCD"[options.index(each.module)], "choice"))
    return listing(found), tuple(made)


def many_shot(size: int, turns: int, draw: random.Random) -> tuple[str, tuple[Turn, ...]]:
    """The label of a number, by hundreds of labelled examples of a rule: its remainder by four."""
    numbers = draw.sample(range(100_000), max(8, size // 14) + turns)
    order = draw.sample(LABELS, 4)
    lines = [f"{number} -> {order[number % 4]}" for number in numbers[turns:]]
    return "\n".join(lines), tuple(Turn(f"{number} -> ", order[number % 4]) for number in numbers[:turns])


def mf(size: int, turns: int, draw: random.Random) -> tuple[str, tuple[Turn, ...]]:
    """Largest, smallest, median, most frequent, and number of a long list of numbers."""
    numbers = [draw.randrange(1000) for _ in range(max(9, size // 5) | 1)]
    often = draw.randrange(1000)
    numbers[: len(numbers) // 8 + 3] = [often] * (len(numbers) // 8 + 3)
    draw.shuffle(numbers)
    asked = {
        "largest": max(numbers),
        "smallest": min(numbers),
        "median": statistics.median(numbers),
        "most frequent": statistics.mode(numbers),
        "first": numbers[0],
    }
    questions = list(asked.items())
    return " ".join(map(str, numbers)), tuple(
        Turn(f"What is the {name} number? It is ", str(value))
        for name, value in (questions[turn % len(questions)] for turn in range(turns))
    )


def summary(size: int, turns: int, draw: random.Random) -> tuple[str, tuple[Turn, ...]]:
    """What the functions of a module do, one line each."""
    found = chosen(size, draw)
    modules = draw.sample(sorted({each.module for each in found}), min(turns, len({each.module for each in found})))
    asked = [modules[turn % len(modules)] for turn in range(turns)]
    return listing(found), tuple(
        Turn(
            f"Say in one line each what the functions of the module {module} do:\n",
            "\n".join(each.description for each in found if each.module == module),
            "rouge",
        )
        for module in asked
    )


def _alternating(one: Maker, other: Maker) -> Maker:
    def make(size: int, turns: int, draw: random.Random) -> tuple[str, tuple[Turn, ...]]:
        first, asked = one(size // 2, (turns + 1) // 2, draw)
        second, others = other(size // 2, turns // 2, draw) if turns > 1 else ("", ())
        turned = [asked[turn // 2] if turn % 2 == 0 else others[turn // 2] for turn in range(turns)]
        return f"{first}\n\n{second}", tuple(turned)

    return make


summary_with_needles = _alternating(summary, kv)
repoqa_and_kv = _alternating(repoqa, kv)

TASKS: dict[str, tuple[Group, Maker]] = {
    "kv": ("string", kv),
    "prefix_suffix": ("string", prefix_suffix),
    "vt": ("string", vt),
    "repoqa": ("semantic", repoqa),
    "qa": ("semantic", qa),
    "qa_other_language": ("semantic", qa_other_language),
    "choice": ("semantic", choice),
    "many_shot": ("global", many_shot),
    "mf": ("global", mf),
    "summary": ("global", summary),
    "summary_with_needles": ("multi", summary_with_needles),
    "repoqa_and_kv": ("multi", repoqa_and_kv),
}
"""The group and the maker of every task."""


def make(task: str, *, size: int, turns: int = 5, count: int = 1, seed: int = 0) -> list[Example]:
    """Examples of a task: the same for the same arguments.

    Args:
        size: characters of the context, about.
        turns: questions to each. count: examples.
    """
    if task not in TASKS:
        raise ConfigError(f"there is no task {task!r}", do=did_you_mean(task, TASKS))
    group, maker = TASKS[task]
    found = []
    for number in range(count):
        context, made = maker(size, turns, random.Random(f"{task} {seed} {number}"))
        found.append(Example(f"{task}-{seed}-{number}", task, group, context, made))
    return found

"""The attack on toy victims: success where it is possible, the budget, greedy steps, meaning kept, models unchanged."""

from __future__ import annotations

import ast
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from pomona.examination.alert_attack import AlertAttackConfig, Search, alert_attack
from pomona.examination.attacking import OutOfQueries, Victim
from pomona.examination.renaming import names_of
from pomona.examination.victims import MaskedFluency, classify_with
from pomona.ground.quiet import without_bars
from tests.tiny import bert

CODE = "def area(width, height):\n    result = width * height\n    return result\n"
OTHER = "def add(first, second):\n    size = first + second\n    return size\n"


class Words:
    """A fluency that proposes the same words everywhere."""

    def __init__(self, *words: str) -> None:
        self.words = list(words)

    def candidates(self, text: str, places: Sequence[tuple[int, int]], most: int) -> list[str]:
        assert all(text[start:end].isidentifier() for start, end in places)
        return self.words[:most]

    def strangeness(self, text: str) -> float:
        return float(len(text))


def counting(texts: Sequence[str]) -> list[list[float]]:
    """Class 1 where there are letters z, the surer the more."""
    shares = [min(0.99, 0.2 + 0.15 * text.count("z")) for text in texts]
    return [[1 - share, share] for share in shares]


def attacked(strategy: str, *words: str, queries: int = 300, texts: Any = ((CODE, 0),)) -> Any:
    config = AlertAttackConfig(strategy=strategy, queries=queries)  # type: ignore[arg-type]
    return alert_attack(Victim(counting, config.budget), Words(*words), texts, config, seed=1)


@pytest.mark.parametrize("strategy", ["greedy", "greedy+genetic"])
def test_it_succeeds_where_it_can(strategy: str) -> None:
    """Catches renamings that do not add up, a success that is not one, and code that is code no more."""
    found = attacked(strategy, "zip_", "zz", "good", "for", "len", "2x", "result")
    (attempt,) = found.attempts
    assert attempt.adversarial is not None and found.numbers["success"] == 1.0
    ast.parse(attempt.adversarial)
    assert counting([attempt.adversarial])[0][1] > 0.5
    assert set(attempt.changes.values()) <= {"zip_", "zz", "good"} and attempt.places == 3
    names = {old: new for new, old in attempt.changes.items()}
    assert re.sub(r"\w+", lambda word: names.get(word[0], word[0]), attempt.adversarial) == CODE


def test_it_fails_where_it_cannot() -> None:
    """Catches a label that turns by itself, and texts that the victim gets wrong counted as successes."""
    found = attacked("greedy+genetic", "good", "fine", texts=((CODE, 0), (CODE, 1), ("no code (", 0), ("x = 1", 0)))
    (attempt,) = found.attempts
    assert attempt.adversarial is None and attempt.changes == {} and found.numbers["success"] == 0.0


@pytest.mark.parametrize("strategy", ["random", "mhm", "greedy", "greedy+genetic"])
@pytest.mark.parametrize("budget", [1, 7, 40])
def test_the_budget_is_kept_and_counted(strategy: str, budget: int) -> None:
    """Catches queries beyond the budget, and queries that are not counted."""
    asked: list[str] = []

    def classify(texts: Sequence[str]) -> list[list[float]]:
        asked.extend(texts)
        return [[0.9, 0.1]] * len(texts)

    config = AlertAttackConfig(strategy=strategy, queries=budget)  # type: ignore[arg-type]
    victim = Victim(classify, config.budget)
    found = alert_attack(victim, Words("zz", "yy"), ((CODE, 0), (OTHER, 0)), config)
    assert len(asked) == victim.queries == sum(attempt.queries for attempt in found.attempts)
    assert all(0 < attempt.queries <= budget for attempt in found.attempts)


def test_greedy_never_helps_the_victim() -> None:
    """Catches a substitute that raises the label's probability, and an order by occurrences in place of importance."""

    def classify(texts: Sequence[str]) -> list[list[float]]:
        return [
            [1 - share, share] for share in (0.3 - 0.02 * text.count("bad") + 0.01 * text.count("q") for text in texts)
        ]

    victim = Victim(classify)
    config = AlertAttackConfig(strategy="greedy")
    search = Search(config, victim, CODE, 0, names_of(CODE), 0.7, random.Random(0))
    mapping = search.greedy({"width": ["bad", "worse_bad"], "result": ["q", "bad"], "height": ["bad"]})
    assert mapping == {"result": "q"}


def test_the_best_of_the_population_never_gets_worse() -> None:
    """Catches a child that replaces a better member, and a parent that is changed by its child."""
    victim = Victim(counting, 60)
    config = AlertAttackConfig()
    search = Search(config, victim, CODE, 0, names_of(CODE), 0.8, random.Random(3))
    one, other = {"width": "a"}, {"height": "b"}
    for _ in range(50):
        made = search.child([one, other], {"width": ["a", "c"], "height": ["b", "c"]}, ["width", "height"])
        assert len(set(made.values())) == len(made)
    assert one == {"width": "a"} and other == {"height": "b"}
    with pytest.raises(OutOfQueries):
        search.genetic({"width": ["good", "fine"], "height": ["kind"]}, {})


def test_real_models_are_only_asked(tmp_path: Path) -> None:
    """Catches substitutes at other places than the name's, padding in probabilities, and weights that change."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    text = "[PAD] [UNK] [MASK] def area ( width , height ) : result = * return total wide tall"
    words = text.split()
    plain = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="[UNK]"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=plain, pad_token="[PAD]", unk_token="[UNK]", mask_token="[MASK]"
    )
    model = bert(vocab_size=len(words)).eval()
    with without_bars():
        model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    fluency = MaskedFluency(tmp_path)
    before = {name: value.clone() for name, value in fluency.model.state_dict().items()}
    start = CODE.index("width")
    found = fluency.candidates(CODE, [(start, start + 5)], 10)
    assert found and "width" not in found and set(found) <= set(words)
    assert fluency.strangeness(CODE) > 1.0
    assert all(torch.equal(value, before[name]) for name, value in fluency.model.state_dict().items())
    assert callable(classify_with(tmp_path))

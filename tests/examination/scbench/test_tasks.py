"""Tasks: deterministic, answerable from the context, of the size that was asked for; scores by hand."""

from __future__ import annotations

import pytest

from pomona.examination.scbench import TASKS, Turn, make, score
from pomona.examination.scbench.example import rouge_l
from pomona.examination.scbench.oracles import ORACLES
from pomona.ground.errors import ConfigError


@pytest.mark.parametrize("task", TASKS)
def test_every_answer_is_in_the_context(task: str) -> None:
    """Catches a question that cannot be answered, or an answer that is wrong: a program finds each one."""
    assert set(ORACLES) == set(TASKS)
    for example in make(task, size=6000, count=3, seed=1):
        assert len(example.turns) == 5 and example.group == TASKS[task][0]
        for turn in example.turns:
            assert score(turn, ORACLES[task](example.context, turn.input)) == 1.0, turn


@pytest.mark.parametrize("task", TASKS)
def test_seeds_and_sizes(task: str) -> None:
    """Catches chance that no seed decides, examples that are all alike, and a size that is not kept."""
    first, again = make(task, size=4000, count=2, seed=3), make(task, size=4000, count=2, seed=3)
    assert first == again and first[0] != first[1] and first != make(task, size=4000, count=2, seed=4)
    assert 1500 < len(first[0].context) < 12_000
    assert len({example.id for example in first}) == 2


def test_wrong_answers_score_nothing() -> None:
    """Catches a score that anything reaches: the answer to another turn is wrong."""
    for task in ("kv", "prefix_suffix", "qa", "repoqa"):
        (example,) = make(task, size=6000, seed=2)
        assert score(example.turns[0], example.turns[1].answer) == 0.0, task


def test_scores_by_hand() -> None:
    """Catches an option that is found anywhere in the text, and similarity at the wrong border."""
    assert score(Turn("?", "B", "choice"), " B) because") == 1.0 and score(Turn("?", "B", "choice"), "A, not B") == 0.0
    assert score(Turn("?", "x" * 100, "code"), "x" * 75 + "y" * 25) == 0.0
    assert score(Turn("?", "x" * 100, "code"), "x" * 85 + "y" * 15) == 1.0
    assert rouge_l("the cat sat", "the black cat sat down") == pytest.approx(2 * 3 / 8)
    assert rouge_l("", "a") == 0.0


def test_an_unknown_task() -> None:
    """Catches a KeyError in place of the nearest names."""
    with pytest.raises(ConfigError, match="repoqa"):
        make("repo_qa", size=100)

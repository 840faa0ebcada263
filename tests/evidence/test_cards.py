"""Every card: its arms are recipes, and its rule does not find what is not there."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pomona.catalog import find, rows
from pomona.evidence.card import SCALES, Experiment, card_of, has_card, module_of
from pomona.evidence.direct import DirectCard
from pomona.evidence.result import results_of
from pomona.evidence.table import Table, Trial
from pomona.evidence.trials import check_tuning
from pomona.ground.errors import ConfigError
from pomona.stages import load

SLUGS = [row.slug for row in rows() if has_card(row.slug)]


@pytest.fixture(params=SLUGS)
def card(request: pytest.FixtureRequest) -> Experiment:
    return card_of(request.param)


def flat(card: Experiment) -> Table:
    """A table in which no arm differs from another, but for their seeds."""
    curve = ((0.5, 0.5, 2.0), (1.0, 1.0, 1.0))
    return Table(
        tuple(
            Trial(arm, seed, {metric.name: 1.0 + seed for metric in card.metrics}, flops=1.0, curve=curve)
            for arm in card.arms("tiny")
            for seed in range(card.seeds)
        )
    )


def test_arms_are_recipes(card: Experiment) -> None:
    """Catches a misspelt key, a parameter out of range, and arms that are not tuned alike, at every scale."""
    for scale in SCALES:
        arms = card.arms(scale)
        roles = [arm.role for arm in arms.values()]
        assert "method" in roles and "baseline" in roles
        if isinstance(card, DirectCard):
            assert not any(arm.stages for arm in arms.values())
            continue
        recipes = {name: load({"name": "arm", "stages": list(arm.stages)}) for name, arm in arms.items()}
        check_tuning(recipes)


def test_nothing_is_found_where_nothing_differs(card: Experiment) -> None:
    """Catches a rule that calls equal arms a success."""
    assert card.judge(flat(card)).status != "reproduced"


def test_cards_say_what_they_must(card: Experiment) -> None:
    """Catches an empty field, a slug of another system, and a rule without its verdict."""
    assert find(card.slug).slug == card.slug and card.seeds >= 3
    assert all(len(text) > 20 and text.endswith(".") for text in (card.claim, card.equal, card.rule))
    assert "eproduced" in card.rule and "not reproduced" in card.rule
    assert len({metric.name for metric in card.metrics}) == len(card.metrics)


@pytest.mark.parametrize("slug", SLUGS)
def test_results_are_as_the_run_wrote_them(slug: str) -> None:
    """Catches a result that somebody edited, and one without the seeds of its card."""
    for result in results_of(slug):
        assert result.state != "edited"
        assert result.slug == slug and len(result.table.seeds) >= card_of(slug).seeds
        assert result.verdict == card_of(slug).judge(result.table) or result.state == "stale"


def test_a_system_without_a_card() -> None:
    """Catches a traceback in place of a way out."""
    with pytest.raises(ConfigError, match="has no evidence card"):
        card_of("adamw")
    with pytest.raises(ConfigError, match="did you mean 'gptq'"):
        card_of("gptqq")


def test_cards_are_light() -> None:
    """Catches a card that imports torch, which everybody waits for who asks where the evidence stands."""
    modules = [module_of(slug) for slug in SLUGS]
    code = (
        f"import sys, importlib; [importlib.import_module(name) for name in {modules}]; print('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"

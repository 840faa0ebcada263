"""What every selector keeps to, whatever it prefers."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from pomona.ground.config import MethodConfig
from pomona.ground.errors import ConfigError
from pomona.selection import keep_highest
from tests.conformance import methods_of, slug_of

METHODS = methods_of("selection")
every_method = pytest.mark.parametrize("method", METHODS, ids=slug_of)
COUNT = 97


def nats(seed: int = 0, count: int = COUNT) -> dict[str, np.ndarray]:
    """Likelihoods of chunks as two models may give them."""
    draw = np.random.default_rng(seed)
    easy = draw.normal(3.0, 1.0, count)
    return {
        "teacher": (easy + draw.normal(-0.3, 0.2, count)).astype(np.float32),
        "reference": (easy + draw.normal(0.0, 0.2, count)).astype(np.float32),
    }


def scores(method: type[MethodConfig], known: dict[str, np.ndarray] | None = None, **values: object) -> np.ndarray:
    config = method.parse(values)
    known = nats() if known is None else known
    return config.scores({role: known[role] for role in config.roles}, COUNT)  # type: ignore[attr-defined]


@every_method
def test_scores(method: type[MethodConfig]) -> None:
    """Catches scores that are not one for each chunk, not finite, or drawn anew, and inputs that change."""
    known = nats()
    before = {role: values.copy() for role, values in known.items()}
    one, other = scores(method, known), scores(method, known)
    assert one.shape == (COUNT,) and one.dtype == np.float64 and np.isfinite(one).all()
    assert np.array_equal(one, other) and all(np.array_equal(known[role], before[role]) for role in known)


@every_method
def test_it_asks_for_what_it_uses(method: type[MethodConfig]) -> None:
    """Catches a model that is run over the corpus for nothing, and one that is not asked for: scores change with each
    of the models that are named."""
    for role in method().roles:  # type: ignore[attr-defined]
        known = nats()
        changed = {**known, role: known[role][::-1].copy()}
        assert not np.array_equal(scores(method, known), scores(method, changed))


@every_method
def test_what_is_kept_is_nested_and_in_order(method: type[MethodConfig]) -> None:
    """Catches a selection that loses, with a larger ratio, what a smaller one keeps; a ratio of 1 keeps everything."""
    kept = [keep_highest(scores(method, ratio=ratio), ratio) for ratio in (0.1, 0.25, 0.5, 0.9, 1.0)]
    assert [len(each) for each in kept] == [9, 24, 48, 87, 97]
    assert all((np.diff(each) > 0).all() for each in kept)
    assert all(set(small) <= set(large) for small, large in pairwise(kept))


@every_method
@pytest.mark.parametrize("ratio", [0, -0.1, 1.1])
def test_refuses_ratios(method: type[MethodConfig], ratio: float) -> None:
    """Catches an empty corpus, or more than there is."""
    with pytest.raises(ConfigError):
        method.parse({"ratio": ratio})

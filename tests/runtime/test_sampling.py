"""Choosing tokens: by hand, in distribution, and out of range."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pomona.ground.errors import ConfigError
from pomona.runtime.sampling import SamplingConfig, choose, generator_of

LOGITS = torch.log(torch.tensor([0.1, 0.4, 0.05, 0.25, 0.2]))


def frequencies(config: SamplingConfig, draws: int = 4000) -> torch.Tensor:
    random = generator_of(config, 0)
    counts = torch.zeros(5)
    for _ in range(draws):
        counts[choose(LOGITS, config, random)] += 1
    return counts / draws


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"temperature": 1.0}, [0.1, 0.4, 0.05, 0.25, 0.2]),
        ({"temperature": 0.5}, [0.01, 0.16, 0.0025, 0.0625, 0.04]),
        ({"temperature": 1.0, "top_k": 2}, [0, 0.4, 0, 0.25, 0]),
        ({"temperature": 1.0, "top_k": 99}, [0.1, 0.4, 0.05, 0.25, 0.2]),
        ({"temperature": 1.0, "top_p": 0.6}, [0, 0.4, 0, 0.25, 0]),
        ({"temperature": 1.0, "top_p": 0.66}, [0, 0.4, 0, 0.25, 0.2]),
        ({"temperature": 1.0, "top_p": 0.01}, [0, 1, 0, 0, 0]),
        ({"temperature": 1.0, "top_k": 3, "top_p": 0.7}, [0, 0.4, 0, 0.25, 0]),
        ({"temperature": 3.0, "top_k": 1}, [0, 1, 0, 0, 0]),
        ({"temperature": 0.0}, [0, 1, 0, 0, 0]),
    ],
)
def test_distributions(settings: dict[str, Any], expected: list[float]) -> None:
    """Catches: top-p that drops the token which crosses the line, top-k after top-p, a temperature that multiplies."""
    wanted = torch.tensor(expected) / sum(expected)
    found = frequencies(SamplingConfig(**settings))
    assert bool((found[wanted == 0] == 0).all())
    # Four standard deviations of a frequency from 4000 draws.
    assert float((found - wanted).abs().max()) < 4 * 0.5 / 4000**0.5


def test_what_the_engine_may_leave_out() -> None:
    """Catches: dropping logits that the distribution needs."""
    assert SamplingConfig().keep == 1
    assert SamplingConfig(temperature=0.7, top_k=40).keep == 40
    assert SamplingConfig(temperature=0.7, top_k=40, top_p=0.9).keep == 40
    assert SamplingConfig(temperature=0.7, top_p=0.9).keep == 0
    assert SamplingConfig(temperature=0.7).keep == 0


def test_streams_of_random_numbers() -> None:
    """Catches: two prompts, or two seeds, that share their numbers."""
    draws = {
        (seed, index): tuple(torch.rand(4, generator=generator_of(SamplingConfig(seed=seed), index)).tolist())
        for seed in (0, 1, 2**62)
        for index in (0, 1)
    }
    assert len(set(draws.values())) == len(draws)


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"top_k": 0},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"max_new_tokens": 0},
        {"seed": -1},
        {"beams": 4},
    ],
)
def test_out_of_range(wrong: dict[str, Any]) -> None:
    """Catches: nonsense that is only noticed in the text."""
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        SamplingConfig.parse(wrong, "generate")

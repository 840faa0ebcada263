"""SCBench: equal to plain generation when nothing is dropped, requests that do not disturb each other, a model that
retrieves, and what policies lose of it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from pomona.anatomy.tiny import tiny_model
from pomona.examination.scbench import Example, ScbenchConfig, Turn, ask, examine, make
from pomona.examination.scbench.policies import Dense, Kivi, Quest, SnapKV, Streaming
from pomona.examination.scbench.retriever import Words, retriever
from pomona.ground.errors import ConfigError, UnsupportedModel

PLAIN = Example(
    "plain", "plain", "string", " ".join(f"w{n % 37}" for n in range(40)),
    tuple(Turn(f"q{n} w{n}", f"a{n} b{n} c{n}") for n in range(3)),
)  # fmt: skip


def encode(text: str) -> list[int]:
    return [2 + sum(map(ord, word)) % 60 for word in text.split()]


def decode(ids: Sequence[int]) -> str:
    return " ".join(map(str, ids))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@torch.no_grad()
def test_dense_turns_are_plain_generation(family: str) -> None:
    """Catches a cache that holds generated tokens, or not the right answers: each answer is that to the whole text."""
    model = tiny_model(family).eval()
    found = ask(model, encode, decode, PLAIN, Dense(), "multi_turn")
    told = encode(PLAIN.context)
    for turn, text in zip(PLAIN.turns, found.texts, strict=True):
        told += encode(turn.input)
        ids = torch.tensor([told])
        for _ in range(3):
            ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], 1)
        assert text == decode(ids[0, len(told) :].tolist())
        told += encode(turn.answer)
    assert not found.touched


@pytest.mark.parametrize("policy", [Dense(), SnapKV(window=4, capacity=12), Quest(page=4, budget=8), Kivi(group=8)])
def test_requests_do_not_disturb_each_other(policy: Dense) -> None:
    """Catches answers that depend on the order of the requests, and a context that a request changes."""
    model = tiny_model("llama").eval()
    forwards = ask(model, encode, decode, PLAIN, policy, "multi_request")
    backwards = ask(model, encode, decode, PLAIN, policy, "multi_request", order=(2, 1, 0))
    assert forwards == backwards and not forwards.touched


@pytest.fixture(scope="module")
def report() -> object:
    """The retriever under every policy at a tenth of the cache."""
    examples = make("kv", size=7500, count=1, seed=0)
    words = Words(800)
    tokens = len(words.encode(examples[0].context))
    budget = tokens // 10
    policies = (
        Dense(),
        Streaming(initial=4, local=budget - 4),
        SnapKV(window=8, capacity=budget),
        Quest(page=16, budget=budget),
        Kivi(),
    )
    config = ScbenchConfig(policies=policies, full_length=None)
    return examine(retriever(800, 800), words.encode, words.decode, examples, config)


def test_the_retriever_retrieves(report: object) -> None:
    """Catches a block that copies the wrong neighbour: with the whole cache every answer is right."""
    assert report.mean(policy="dense") == 1.0  # type: ignore[attr-defined]


def test_what_policies_lose(report: object) -> None:
    """Catches a policy that sees questions before they are asked, and one that loses what it keeps."""
    mean = report.mean  # type: ignore[attr-defined]
    assert mean(policy="snapkv", mode="multi_turn", turn=1) == 1.0
    assert mean(policy="snapkv", mode="multi_turn", turn=range(2, 6)) < 0.6
    assert mean(policy="snapkv", mode="multi_request") < 0.6
    assert mean(policy="kivi") > 0.8 and mean(policy="streaming") < 0.6
    assert report.bytes("snapkv") < 0.15 * report.bytes("dense")  # type: ignore[attr-defined]


def test_refusals() -> None:
    """Catches an encoder that is asked, a context beyond the positions, and a task that is misspelt."""
    with pytest.raises(UnsupportedModel, match="causal"):
        ask(tiny_model("bert"), encode, decode, PLAIN, Dense(), "multi_turn")
    long = Example("long", "plain", "string", "w " * 5000, PLAIN.turns)
    with pytest.raises(ConfigError, match="longer than the model's positions"):
        ask(tiny_model("gpt2"), encode, decode, long, Dense(), "multi_turn")
    with pytest.raises(ConfigError, match="many_shot"):
        ScbenchConfig.parse({"tasks": ["manyshot"]})

"""SCBench: ask several questions of one long context, and see what a cache that was made smaller still knows.

Source: Li et al., "SCBench: A KV Cache-Centric Analysis of Long-Context Methods", ICLR 2025, arXiv:2412.10319.
Implements: twelve tasks in four groups, five turns each; the modes multi-turn (the first question is known when the
    cache is made) and multi-request (none is); the policies dense, streaming, snapkv, quest and kivi with the paper's
    settings; accuracy by task, mode and turn, and bytes of the cache.
Deviations: tasks are offline analogues, made from seeds and from the standard library's functions. Caches are stored
    whole and masked, which computes the same; their bytes are counted by the policies' own formulas. SnapKV chooses for
    a key-value head, not for a query head, which is what memory can be saved by. Left out: pyramidkv, exact retrieval,
    and sparse first passes (`minference` is an accelerator of its own).
Use when: a cache is to be compressed and used more than once. Cost: one pass over the context for each policy and mode.
Relations: with one turn, multi-turn is what most long-context benchmarks measure.
Limits: causal models without windows, soft caps or biases; one sequence at a time; greedy answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal

from pydantic import NonNegativeInt, PositiveInt, field_validator

from pomona.examination.scbench.example import Example, score
from pomona.examination.scbench.modes import MODES, Mode, ask, check
from pomona.examination.scbench.policies import Dense, Kivi, Policy, Quest, SnapKV, Streaming
from pomona.examination.scbench.tasks import TASKS, make
from pomona.ground.config import MethodConfig
from pomona.ground.errors import did_you_mean

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from pomona.anatomy import Anatomy

FULL_LENGTH = 131_072
"""Tokens of the context that the paper's budgets are meant for."""


class ScbenchConfig(MethodConfig):
    """Examine a model under cache policies, on questions that share a context."""

    method: Literal["scbench"] = "scbench"
    tasks: tuple[str, ...] = tuple(TASKS)
    """Names of tasks."""
    modes: tuple[Mode, ...] = MODES
    """How the context is shared."""
    policies: tuple[Policy, ...] = (Dense(), Streaming(), SnapKV(), Quest(), Kivi())
    """What becomes of the cache."""
    full_length: PositiveInt | None = FULL_LENGTH
    """Length that budgets are meant for: shorter contexts have them in proportion. None: as they are."""
    size: PositiveInt = 16_384
    """Characters of a context, about."""
    turns: PositiveInt = 5
    """Questions to a context."""
    examples: PositiveInt = 1
    """Contexts of each task."""
    slack: NonNegativeInt = 0
    """Tokens that are generated beyond the length of the right answer."""
    seed: NonNegativeInt = 0
    """Of everything random in the tasks."""

    @field_validator("tasks")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name not in TASKS:
                raise ValueError(f"there is no task {name!r}; {did_you_mean(name, TASKS)}")
        return value

    def check(self, body: Anatomy) -> None:
        """Raise `UnsupportedModel` unless the model can be asked under these policies. Computes nothing."""
        check(body)

    def run(self, model: Any, tokenizer: PreTrainedTokenizerBase) -> Report:
        """Ask everything of a causal model; see `modes.ask`."""
        examples = [
            example
            for task in self.tasks
            for example in make(task, size=self.size, turns=self.turns, count=self.examples, seed=self.seed)
        ]

        def encode(text: str) -> list[int]:
            return list(tokenizer(text, add_special_tokens=False)["input_ids"])

        def decode(ids: Sequence[int]) -> str:
            return str(tokenizer.decode(ids))

        return examine(model, encode, decode, examples, self)


@dataclass(frozen=True)
class Score:
    """One answer.

    Attributes:
        policy, mode, task, group, turn: where it was given; turns count from 1.
        score: in [0, 1]. bytes: of the cache after the first pass.
    """

    policy: str
    mode: str
    task: str
    group: str
    turn: int
    score: float
    bytes: int


@dataclass(frozen=True)
class Report:
    """All answers, and what one wants to know of them."""

    scores: tuple[Score, ...]

    def mean(self, **where: Any) -> float:
        """Mean score of the answers with these attributes; `turn` may be a range."""

        def fits(each: Score) -> bool:
            return all(
                getattr(each, name) in value if isinstance(value, range) else getattr(each, name) == value
                for name, value in where.items()
            )

        return fmean(each.score for each in self.scores if fits(each))

    def bytes(self, policy: str) -> float:
        """Mean bytes of the cache after the first pass."""
        return fmean(each.bytes for each in self.scores if each.policy == policy)

    @property
    def numbers(self) -> dict[str, float]:
        """Mean score of every policy in every mode, in [0, 1], and the bytes of its cache."""
        found = {
            f"{policy}, {mode}": self.mean(policy=policy, mode=mode)
            for policy, mode in dict.fromkeys((each.policy, each.mode) for each in self.scores)
        }
        policies = dict.fromkeys(each.policy for each in self.scores)
        return found | {f"{policy}, bytes": self.bytes(policy) for policy in policies}

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a JSON file."""
        return {"numbers": self.numbers, "scores": [asdict(each) for each in self.scores]}


def examine(model: Any, encode: Any, decode: Any, examples: Sequence[Example], config: ScbenchConfig) -> Report:
    """Ask all questions under all policies in all modes."""
    found = []
    for example in examples:
        length = len(encode(example.context))
        for policy in config.policies:
            fitted = policy.scaled(length / config.full_length) if config.full_length else policy
            for mode in config.modes:
                answers = ask(model, encode, decode, example, fitted, mode, slack=config.slack)
                assert not answers.touched, "a cache changed while questions were answered"
                found += [
                    Score(policy.policy, mode, example.task, example.group, number, score(turn, text), answers.bytes)
                    for number, (turn, text) in enumerate(zip(example.turns, answers.texts, strict=True), start=1)
                ]
    return Report(tuple(found))

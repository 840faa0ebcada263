"""The two ways in which a context is shared, and the attention of a model under a cache policy.

The cache is stored whole; a policy says what later queries find of it (`CachePolicy.view`). That is the same function
as a cache from which the rest was deleted, and every policy runs on any causal model with rotary or learned positions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from pomona import anatomy
from pomona.anatomy import Anatomy, AttentionCall, Modifier, Place, modify_attention
from pomona.anatomy.attention_call import Effect
from pomona.examination.scbench.example import Example
from pomona.examination.scbench.policies import CachePolicy, Kept
from pomona.ground.errors import ConfigError, UnsupportedModel

Mode = Literal["multi_turn", "multi_request"]
MODES: tuple[Mode, ...] = ("multi_turn", "multi_request")
Encode = Callable[[str], Sequence[int]]
Decode = Callable[[Sequence[int]], str]


@dataclass(frozen=True)
class Answers:
    """What a model said.

    Attributes:
        texts: the answer of each turn.
        bytes: of the cache after the first pass, as the policy would keep it.
        touched: the context's cache changed while questions were answered; never, if all is well.
    """

    texts: tuple[str, ...]
    bytes: int
    touched: bool


@dataclass(eq=False)
class CacheView(Modifier):
    """Lets queries after the first pass see the cache as a policy keeps it."""

    policy: CachePolicy
    effects: ClassVar[frozenset[Effect]] = frozenset({"kernel"})
    kept: dict[Place, Kept] = field(default_factory=dict)
    bytes: int = 0

    def modify(self, call: AttentionCall) -> None:
        call.compute_with(self._first if call.first == 0 else self._later)

    def _first(self, call: AttentionCall) -> Tensor:
        kept = self.kept[call.place] = Kept()
        self.policy.first(kept, call.query[0], call.key[0], call.scaling)
        self.bytes += self.policy.bytes(call.keys, call.key.shape[1], call.key.shape[3])
        groups = call.heads // call.key.shape[1]
        key, value = (each.repeat_interleave(groups, 1) for each in (call.key, call.value))
        return torch.nn.functional.scaled_dot_product_attention(
            call.query, key, value, is_causal=True, scale=call.scaling
        )

    def _later(self, call: AttentionCall) -> Tensor:
        query = call.query[0]
        key, value, seen = self.policy.view(self.kept[call.place], query, call.key[0], call.value[0])
        groups = call.heads // len(key)
        scores = (query @ key.repeat_interleave(groups, 0).transpose(1, 2)).float() * call.scaling
        places = torch.arange(call.keys, device=scores.device)
        earlier = places <= places[call.first :, None]
        scores = scores.masked_fill(~(earlier if seen is None else earlier & seen), torch.finfo(scores.dtype).min)
        return (scores.softmax(-1).to(value.dtype) @ value.repeat_interleave(groups, 0))[None]


@torch.no_grad()
def ask(
    model: Any,
    encode: Encode,
    decode: Decode,
    example: Example,
    policy: CachePolicy,
    mode: Mode,
    *,
    slack: int = 0,
    order: Sequence[int] | None = None,
) -> Answers:
    """Ask all questions of an example.

    `multi_turn`: context and first question are read together; what was generated is then dropped, and the right answer
    and the next question are appended to the cache. `multi_request`: the context is read alone, so that a policy cannot
    know what will be asked, and each question starts from it.

    Args:
        model: a causal transformers model, or its anatomy.
        encode, decode: between text and token ids.
        slack: tokens that are generated beyond the length of the right answer.
        order: in which requests are made; answers come back in the order of the example.
    Raises:
        UnsupportedModel: no causal model. ConfigError: the example is longer than the model's positions.
    """
    body = model if isinstance(model, Anatomy) else anatomy.of(model)
    check(body)
    session = _Session(body, policy, _length(encode, example, slack))
    turns = [(list(encode(turn.input)), list(encode(turn.answer))) for turn in example.turns]
    context = list(encode(example.context))
    found: dict[int, str] = {}
    with modify_attention(body, [session.view]):
        if mode == "multi_request":
            session.read(context)
            before = session.fingerprint()
            for number in order or range(len(turns)):
                question, answer = turns[number]
                found[number] = decode(session.generate(session.read(question), len(answer) + slack))
                session.forget(len(context))
            return Answers(_in_order(found), session.view.bytes, session.fingerprint() != before)
        touched = False
        for number, (question, answer) in enumerate(turns):
            told = [*turns[number - 1][1], *question] if number else [*context, *question]
            first, length = session.read(told), session.length
            before = session.fingerprint()
            found[number] = decode(session.generate(first, len(answer) + slack))
            session.forget(length)
            touched |= session.fingerprint() != before
    return Answers(_in_order(found), session.view.bytes, touched)


def check(body: Anatomy) -> None:
    """Raise `UnsupportedModel` unless the model is causal and its scores are products of queries and keys alone."""
    body.require("causal", "head", method="scbench")
    others = ("softcap", "sliding_window", "relative_bias")
    if found := [each for each in others if each in body.capabilities]:
        raise UnsupportedModel(
            f"scbench cannot examine {type(body.model).__name__}",
            needs="causal attention over the whole cache, whose scores are products alone",
            found=", ".join(found),
            do="choose a model without them",
        )


class _Session:
    """A cache that is read into, and copied for every answer."""

    def __init__(self, body: Anatomy, policy: CachePolicy, length: int) -> None:
        if body.max_positions is not None and length > body.max_positions:
            raise ConfigError(
                "the example is longer than the model's positions",
                needs=f"at most {body.max_positions} tokens",
                found=f"{length}",
                do="make smaller contexts",
            )
        self.body, self.view = body, CacheView(policy)
        self.cache: Any = None

    def read(self, ids: Sequence[int]) -> int:
        """Append tokens, and give the most probable next one."""
        out = self.body.model(
            input_ids=torch.tensor([list(ids)], device=next(self.body.model.parameters()).device),
            past_key_values=self.cache,
            use_cache=True,
        )
        self.cache = out.past_key_values
        return int(out.logits[0, -1].argmax())

    def generate(self, first: int, count: int) -> list[int]:
        """The most probable token, given, and what follows after it."""
        made = [first]
        while len(made) < count:
            made.append(self.read(made[-1:]))
        return made

    @property
    def length(self) -> int:
        """Tokens in the cache."""
        return 0 if self.cache is None else int(self.cache.get_seq_length())

    def forget(self, length: int) -> None:
        """Drop what came after so many tokens."""
        if self.length > length:
            self.cache.crop(length - self.length)  # a negative number: so many go

    def fingerprint(self) -> str:
        """A hash of all keys and values."""
        digest = sha256()
        for layer in () if self.cache is None else self.cache.layers:
            for tensor in (layer.keys, layer.values):
                digest.update(tensor.float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


def _length(encode: Encode, example: Example, slack: int) -> int:
    told = sum(len(encode(turn.input)) + len(encode(turn.answer)) for turn in example.turns)
    return len(encode(example.context)) + told + slack


def _in_order(found: dict[int, str]) -> tuple[str, ...]:
    return tuple(found[number] for number in sorted(found))

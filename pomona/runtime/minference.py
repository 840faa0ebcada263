"""MInference: give each head one of three sparse shapes, and find its positions anew for each prompt.

Source: Jiang et al., "MInference 1.0: Accelerating Pre-filling for Long-Context LLMs via Dynamic Sparse Attention",
NeurIPS 2024, arXiv:2407.02490.
Implements: the shapes of Sec. 3.1 with their indices (Algorithms 2 and 3: vertical-slash from the last 64 queries, 30
    first keys and 100 nearest distances always kept; block-sparse from means of 64), and the search of Algorithm 1:
    candidates at equal cost, the one whose output is nearest to the dense one is the head's. Prefill only: keys and
    values stay complete, later tokens attend to all of them.
Deviations: cost is counted in tiles of 64 x 64, and candidates are scaled until they cost what the reference (a_shape)
    does; the released search compares them at fixed budgets. Masks are exact inside of tiles, where the released GPU
    kernels keep whole tiles along a slash.
Use when: prompts of many thousand tokens. Cost: the estimate reads the keys once with 64 queries. On two cores in bf16,
    prompts of 32k run about ten times as fast as dense attention (benchmarks/sparse_prefill.py).
Relations: `a_shape` alone is StreamingLLM's mask, with the cache kept; block_sparse with all blocks is dense.
Limits: causal self-attention without soft caps, windows, sinks or biases. Chunks after the first (a cache that already
    holds tokens) are dense. Without gradients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import NonNegativeInt, PositiveInt, TypeAdapter
from torch import Tensor

from pomona import anatomy
from pomona.anatomy import Anatomy, AttentionCall, Modifier, modify_attention
from pomona.anatomy.attention_call import Effect
from pomona.ground.errors import ConfigError, DataError, UnsupportedModel
from pomona.ground.files import read_json, write_json
from pomona.runtime.accelerator import AcceleratorConfig
from pomona.runtime.sparse_attention import sparse_attention
from pomona.runtime.sparse_patterns import AShape, BlockSparse, Kept, Pattern, VerticalSlash

FULL_LENGTH = 131_072
"""Tokens of the prompt that the paper's budgets are meant for."""
REFERENCE = AShape(initial=1024, local=4096)
CANDIDATES: tuple[Pattern, ...] = (
    REFERENCE,
    *(VerticalSlash(vertical=v, slash=s) for v, s in ((30, 2048), (100, 1800), (500, 1500), (1000, 6096), (3000, 200))),
    BlockSparse(blocks=100),
)
"""What the search chooses among, with the paper's budgets at 128k tokens."""
COST_TOLERANCE = 0.05

Patterns = list[dict[int, tuple[Pattern, float]]]
"""For each block of the model, by query head, its shape and the error that it was chosen with."""


class MinferenceConfig(AcceleratorConfig):
    """Prefill with sparse attention whose shape each head has been given, and whose positions each prompt decides."""

    method: Literal["minference"] = "minference"
    patterns: Path | None = None
    """JSON file of a search (`search_patterns`). Heads that it lacks, or all, have the shape below."""
    default: Pattern = VerticalSlash()
    """Shape and budget of other heads. Default: the paper's."""
    full_length: PositiveInt | None = None
    """Length that budgets are meant for: prompts of other lengths have them in proportion. Default: as they are."""
    start_layer: NonNegativeInt = 0
    """Blocks before this one stay dense."""
    precision: Literal["model", "bf16"] = "model"
    """`bf16` lets models in float32 use the compiled kernel too, which rounds to bf16."""

    def check(self, body: Anatomy) -> None:
        """See `AcceleratorConfig.check`."""
        body.require("causal", method=self.method)
        others = ("softcap", "sliding_window", "relative_bias", "disentangled")
        if found := [each for each in others if each in body.capabilities]:
            raise UnsupportedModel(
                f"minference cannot run on {type(body.model).__name__} (nothing was changed)",
                needs="causal attention whose scores are products of queries and keys alone",
                found=", ".join(found),
                do="choose a model without them",
            )

    def attach(self, model: Any) -> AbstractContextManager[Any]:
        """See `AcceleratorConfig.attach`."""
        body = model if isinstance(model, Anatomy) else anatomy.of(model)
        self.check(body)
        patterns = load_patterns(self.patterns, body) if self.patterns else []
        return modify_attention(body, [SparsePrefill(self, patterns)])

    def unlimited(self) -> Self:
        """See `AcceleratorConfig.unlimited`."""
        everything = AShape(initial=0, local=2**31)
        return self.model_copy(update={"default": everything, "patterns": None, "full_length": None})


@dataclass(eq=False)
class SparsePrefill(Modifier):
    """Computes the attention of whole prompts; calls with cached keys pass by."""

    config: MinferenceConfig
    patterns: Patterns
    effects: ClassVar[frozenset[Effect]] = frozenset({"kernel"})

    def modify(self, call: AttentionCall) -> None:
        prompt = call.attention.causal and 1 < call.queries == call.keys
        if prompt and not call.place.cross and call.place.index >= self.config.start_layer:
            call.compute_with(self._compute)

    def pattern(self, block: int, head: int, tokens: int) -> Pattern:
        """The shape of a head for a prompt of so many tokens."""
        own = self.patterns[block].get(head) if block < len(self.patterns) else None
        pattern = self.config.default if own is None else own[0]
        return pattern.scaled(tokens / self.config.full_length) if self.config.full_length else pattern

    def _compute(self, call: AttentionCall) -> Tensor:
        out = torch.zeros_like(call.query[..., : call.value.shape[3]])
        dtype = torch.bfloat16 if self.config.precision == "bf16" else call.query.dtype
        for row, span in enumerate(spans_of(call)):
            query, key, value = (each[row, :, span].to(dtype) for each in (call.query, call.key, call.value))
            made = sparse_attention(query, key, value, self._find(call, query, key), call.scaling)
            out[row, :, span] = made.to(out.dtype)
        return out

    def _find(self, call: AttentionCall, query: Tensor, key: Tensor) -> list[Kept]:
        groups, tokens = call.heads // len(key), key.shape[1]
        return [
            self.pattern(call.place.index, head, tokens).find(query[head], key[head // groups], call.scaling)
            for head in range(call.heads)
        ]


def spans_of(call: AttentionCall) -> list[slice]:
    """The tokens of each sequence of a batch, padding left out.

    Raises:
        UnsupportedModel: the mask hides more than later tokens and padding, or something is added to the scores.
    """
    whole = slice(0, call.queries)
    found = "" if call.bias_of(whole) is None else "a bias of the scores"
    if call.softcap is not None or call.sinks is not None:
        found = "soft caps or sinks"
    spans = [whole] * call.batch
    if call.mask is not None and not found:
        mask = call.mask.expand(call.batch, -1, call.queries, call.keys)
        spans = []
        for each in mask:
            places = (each[0, -1] if bool(each[0, -1].any()) else each[0].any(0)).nonzero()[:, 0]
            span = slice(int(places[0]), int(places[-1]) + 1)
            inner = each[:, span, span]
            if not bool((inner == torch.ones_like(inner).tril()).all()):
                found = "a mask that hides more"
            spans.append(span)
    if found:
        raise UnsupportedModel(
            f"minference cannot compute {call.place}",
            needs="scores that are products alone, and a mask of later tokens and padding",
            found=found,
            do="choose another model, or run documents one by one",
        )
    return spans


# ---- the search, offline


@torch.no_grad()
def search_patterns(
    model: Any,
    inputs: Mapping[str, Tensor],
    *,
    candidates: Sequence[Pattern] = CANDIDATES,
    full_length: int = FULL_LENGTH,
) -> Patterns:
    """Choose the shape of every head by one prompt.

    Every candidate is scaled until it costs what the first does. The one whose output has the smallest distance from
    the dense output (Frobenius) becomes the head's, with its budget for prompts of `full_length` tokens.

    Args:
        model: a causal transformers model, or its anatomy.
        inputs: one sequence, of a few thousand tokens or more.
        candidates: shapes with budgets for `full_length` tokens, the reference first.
        full_length: see `MinferenceConfig.full_length`; use the same there.
    Raises:
        UnsupportedModel: see `MinferenceConfig.check`. DataError: more than one sequence.
    """
    body = model if isinstance(model, Anatomy) else anatomy.of(model)
    MinferenceConfig().check(body)
    searching = _Search(candidates, full_length, [{} for _ in body.blocks])
    with modify_attention(body, [searching]):
        body.model(**inputs)
    return searching.found


@dataclass(eq=False)
class _Search(Modifier):
    """Computes dense attention, and on the way how far each candidate is from it."""

    candidates: Sequence[Pattern]
    full_length: int
    found: Patterns
    effects: ClassVar[frozenset[Effect]] = frozenset({"kernel"})

    def modify(self, call: AttentionCall) -> None:
        call.compute_with(self._compute)

    def _compute(self, call: AttentionCall) -> Tensor:
        if call.batch != 1 or call.queries != call.keys:
            raise DataError("a search looks at one whole sequence", found=f"{call.batch} of {call.queries} tokens")
        spans_of(call)
        groups, outs = call.heads // call.key.shape[1], []
        factor = call.keys / self.full_length
        for head in range(call.heads):
            query, key, value = call.query[0, head], call.key[0, head // groups], call.value[0, head // groups]
            tried = [each.scaled(factor) for each in self.candidates]
            budget = tried[0].find(query, key, call.scaling).cost()
            fitted = [tried[0], *(at_cost(each, query, key, call.scaling, budget) for each in tried[1:])]
            kept = [each.find(query, key, call.scaling) for each in fitted]
            dense, errors = errors_of(query, key, value, kept, call.scaling)
            best = min(range(len(errors)), key=errors.__getitem__)
            self.found[call.place.index][head] = (fitted[best].scaled(1 / factor), errors[best])
            outs.append(dense)
        return torch.stack(outs)[None].to(call.value.dtype)


def at_cost(pattern: Pattern, query_TH: Tensor, key_TH: Tensor, scaling: float, budget: int) -> Pattern:
    """The pattern with all its budgets times the one factor at which it costs `budget` tiles, as nearly as 16 halvings
    find it; the next cheaper one where steps are coarse."""

    def cost(factor: float) -> int:
        return pattern.scaled(factor).find(query_TH, key_TH, scaling).cost()

    low, high = 2.0**-8, 2.0**8
    best = pattern.scaled(low)
    for _ in range(16):
        middle = (low * high) ** 0.5
        spent = cost(middle)
        if spent <= budget:
            low, best = middle, pattern.scaled(middle)
            if spent >= (1 - COST_TOLERANCE) * budget:
                break
        else:
            high = middle
    return best


def errors_of(
    query_TH: Tensor, key_TH: Tensor, value_TH: Tensor, kept: Sequence[Kept], scaling: float
) -> tuple[Tensor, list[float]]:
    """Dense causal attention of one head, and the Frobenius distance of each sparse one from it."""
    dense, squares = [], [0.0] * len(kept)
    for start in range(0, len(key_TH), 256):
        rows = slice(start, min(start + 256, len(key_TH)))
        scores = (query_TH[rows] @ key_TH[: rows.stop].T).float() * scaling
        later = torch.ones_like(scores, dtype=torch.bool).triu(start + 1)
        weights = scores.masked_fill(later, -torch.inf).softmax(1)
        value = value_TH[: rows.stop].float()
        dense.append(weights @ value)
        for number, own in enumerate(kept):
            part = weights * own.mask(rows)[:, : rows.stop]
            made = (part / part.sum(1, keepdim=True)) @ value
            squares[number] += float((made - dense[-1]).square().sum())
    return torch.cat(dense), [square**0.5 for square in squares]


def recall(query_TH: Tensor, key_TH: Tensor, kept: Kept, scaling: float) -> float:
    """The share of dense causal attention that falls on kept keys, mean over queries."""
    total = 0.0
    for start in range(0, len(key_TH), 256):
        rows = slice(start, min(start + 256, len(key_TH)))
        scores = (query_TH[rows] @ key_TH.T).float() * scaling
        later = torch.ones_like(scores, dtype=torch.bool).triu(start + 1)
        weights = scores.masked_fill(later, -torch.inf).softmax(1)
        total += float((weights * kept.mask(rows)).sum())
    return total / len(key_TH)


# ---- files

_PATTERN: TypeAdapter[Pattern] = TypeAdapter(Pattern)


def save_patterns(patterns: Patterns, path: Path) -> None:
    """As JSON: for each block, by head, the shape with its budgets and the error that it was chosen with."""
    write_json(
        path,
        [
            {str(head): {**pattern.model_dump(), "error": error} for head, (pattern, error) in block.items()}
            for block in patterns
        ],
    )


def load_patterns(path: Path, body: Anatomy) -> Patterns:
    """What `save_patterns` wrote. Raises `ConfigError` when it was searched for another model."""
    found: Patterns = []
    for block in read_json(path):
        own = {}
        for head, values in block.items():
            error = float(values.pop("error"))
            own[int(head)] = (_PATTERN.validate_python(values), error)
        found.append(own)
    heads = [block.attention.num_heads for block in body.blocks]
    if len(found) != len(heads) or any(max(own, default=0) >= most for own, most in zip(found, heads, strict=True)):
        raise ConfigError(
            f"{path} holds the patterns of another model",
            needs=f"{len(heads)} blocks of at most {max(heads)} heads",
            found=f"{len(found)} blocks",
            do="search them for this model",
        )
    return found

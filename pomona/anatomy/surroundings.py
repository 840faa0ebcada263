"""What a declaration says about what lies around the blocks: stems, further heads, inputs, and what stands fast.

A model need not start from a table of tokens. Whatever makes its hidden states (convolutions over patches or samples,
class tokens, projections) and whatever reads them at the end (poolers, classifiers) is declared as `Part`s: a path and
the names of the spaces along its sides. That is all that permutations, cuts and counts need.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Per = Literal["token", "sequence"] | None
MAPS = "maps"
"""The side of what reads the attention maps of all heads: those of each block, one block after another."""
OWN_TOKENS = ("class_token", "distillation_token", "register_tokens")
"""Roles of vectors that the stem puts before what it makes of the input, one position each."""


@dataclass(frozen=True)
class Part:
    """A module with a weight (and a bias), or a single parameter, outside of the blocks.

    Sides are named by their spaces: "residual"; "a*b" for a product, outermost first; "a|b" for the first of them that
    the model has; "maps" for the heads of all blocks. What follows a dot tells spaces of one name apart, as
    "channel.0". A name that no part had before is a new space with the size that the tensor has, so parts are listed in
    the order of the computation.

    In a path, "a|b" is the first that exists, a trailing "?" allows for none, and "*" stands for every index of a list:
    names of spaces may then hold "{i}" for the index and "{before}" for the one before it; "a.last" is the last of all.

    Args:
        role: what it does, as "patch", "class_token", "pooler".
        path: from the body of the model, or else from the whole model.
        kind: "linear" (outputs, inputs; kernel axes of a convolution count as inputs), "table" (rows, features),
            "vector" (one side; also tokens stored as (1, 1, hidden)), "layer" or "rms" (a norm over one side).
        sides: names of spaces.
        per: what a linear map is computed for: every token that is made of the input (convolutions over them included),
            every sequence, or neither (tables of positions), which counts of FLOPs leave out.
    """

    role: str
    path: str
    kind: Literal["linear", "table", "vector", "layer", "rms"]
    sides: tuple[str, ...]
    per: Per = None


def linear(role: str, path: str, outputs: str, inputs: str, per: Per = "token") -> Part:
    """A linear map or a convolution."""
    return Part(role, path, "linear", (outputs, inputs), per)


def table(role: str, path: str, rows: str, features: str = "residual") -> Part:
    """Rows that are chosen by an index."""
    return Part(role, path, "table", (rows, features))


def vector(role: str, path: str, over: str | None = "residual") -> Part:
    """A learned token, gain or bias; a single number when `over` is None."""
    return Part(role, path, "vector", () if over is None else (over,))


def layer_norm(role: str, path: str, over: str = "residual") -> Part:
    """A norm with mean removal."""
    return Part(role, path, "layer", (over,))


@dataclass(frozen=True)
class Input:
    """A tensor that the model takes besides, or instead of, token ids.

    Args:
        name: of the argument of the model's forward.
        sides: those after the batch; a configuration field or a number each. None: one flag per token that the stem
            makes, by which it is masked.
        modality: what it holds.
    """

    name: str
    sides: tuple[str | int, ...] | None
    modality: Literal["vision", "audio", "text"]


@dataclass(frozen=True)
class Fast:
    """A space whose coordinates cannot change places, and what stands against it.

    The probes show both: with the hindrance silenced the space can be permuted, with it the outputs change.

    Args:
        space: name of the space.
        path: from the body, of a module (silenced: it gives zeros) or of a tensor that is no parameter (silenced: it is
            zero). Where it is absent the space is free.
        why: half a sentence for the refusal.
    """

    space: str
    path: str
    why: str

"""Tell the parts of a block apart by experiments: what a change of one output moves in the map that reads it first.

Which map reads another first is the wiring of a block: query, key and value are read by attention's output, gate and up
by down. Row by row, what they move there tells them apart:

    query       all features of a head, at its own position only
    key         all features of the heads that use it, at other positions too
    value       one feature of each head that uses it, at other positions too
    up, gate    one feature, at its own position; it follows `up` linearly
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from pomona.anatomy.declaration import AttentionShape, BlockShape, FeedForwardShape, Fused, Placement, Storage
from pomona.anatomy.discovery.runs import FACTOR, PLACE, Runs, same
from pomona.anatomy.find import storage_path


@dataclass
class Found:
    """What is known of a block; paths are from the block.

    Args:
        shape: its declaration, when attention and feed-forward were recognised.
        causal: attention sees no later positions.
        sizes: measured ones, named as in `Fields`.
        open: what was not recognised.
    """

    shape: BlockShape | None = None
    causal: bool = False
    sizes: dict[str, int] = field(default_factory=dict)
    open: list[str] = field(default_factory=list)


class BlockFinder:
    """Takes one block of a model apart, given its path."""

    def __init__(self, runs: Runs, path: str) -> None:
        self.runs, self.path = runs, path
        self.maps = [name.removeprefix(f"{path}.") for name in runs.linears(path)]
        self.norms = runs.norms(path)
        self.read: dict[str, dict[str, Tensor]] = {}
        for place, name in enumerate(self.maps):
            moved = runs.shaken(f"{path}.{name}")
            later = {reader: moved.get(f"{path}.{reader}") for reader in self.maps[place + 1 :]}
            first = next((reader for reader, by in later.items() if by is not None and bool(by.any())), None)
            if first is not None:
                self.read.setdefault(first, {})[name] = later[first]  # type: ignore[assignment]

    def find(self) -> Found:
        found = Found()
        attentions: list[AttentionShape] = []
        feed_forwards: list[FeedForwardShape] = []
        for reader, moved in self.read.items():
            if any(bool(_elsewhere(by).any()) for by in moved.values()):
                attentions += self._attention(reader, moved, found)
            elif all(int(_features(by).max()) == 1 for by in moved.values()):
                feed_forwards += self._feed_forward(reader, moved, found)
        if not attentions:
            found.open.append(f"{self.path}: no attention was recognised among {', '.join(self.maps)}")
        if len(feed_forwards) != 1:
            found.open.append(f"{self.path}: not one feed-forward was recognised, but {len(feed_forwards)}")
        if attentions and len(attentions) < 3 and len(feed_forwards) == 1:
            found.shape = self._placed(attentions[0], feed_forwards[0], attentions[1] if attentions[1:] else None)
        return found

    # ---- what flows

    def given(self, name: str) -> Tensor:
        """What a module of the block got."""
        return self.runs.plain.inputs[f"{self.path}.{name}"]

    def gave(self, name: str) -> Tensor:
        return self.runs.plain.outputs[f"{self.path}.{name}"]

    # ---- attention

    def _attention(self, output: str, moved: dict[str, Tensor], found: Found) -> list[AttentionShape]:
        """The attention whose output map is given, with the maps that it reads."""
        shared = min(int(_features(by)[_elsewhere(by)].min()) for by in moved.values() if bool(_elsewhere(by).any()))
        parts: list[tuple[str, Any]] = []
        norms: dict[str, Any] = {}
        values = torch.zeros(self.given(output).shape[1:])
        for name, by in moved.items():
            features, elsewhere = _features(by), _elsewhere(by)
            roles = [
                None if not some else "value" if some == shared else "key" if there else "query"
                for some, there in zip(features.tolist(), elsewhere.tolist(), strict=True)
            ]
            parts += _stored(name, roles).items()
            for role in {"query", "key"} & set(roles):
                own = self.gave(name)[..., [each == role for each in roles]]
                norms[f"{role}_norm"] = self._norm_reading(own)
            values = values + by[[role == "value" for role in roles]].sum(0)
        if sorted(role for role, _ in parts) != ["key", "query", "value"]:
            found.open.append(f"{self.path}.{output}: query, key, value were not told apart among {', '.join(moved)}")
            return []
        if not found.sizes:
            width = _same_head(values)
            found.sizes = {"heads": values.shape[1] // width, "head_dim": width}
            found.sizes["kv_heads"] = found.sizes["heads"] // shared
            found.causal = not bool(values[:PLACE].any())
        return [AttentionShape(**dict(parts), **norms, output=output)]

    # ---- feed-forward

    def _feed_forward(self, down: str, moved: dict[str, Tensor], found: Found) -> list[FeedForwardShape]:
        """The feed-forward whose last map is given, with the maps that it reads."""
        inner = self.given(down)[0, PLACE]
        gated = sum(by.shape[0] for by in moved.values()) > len(inner)
        parts: list[tuple[str, Any]] = []
        for name, by in moved.items():
            at = by[:, PLACE]
            follows = ((at - (FACTOR - 1) * inner * (at != 0)).abs().amax(1) < 1e-5 * inner.abs().max()).tolist()
            none = (_features(by) == 0).tolist()
            roles = [
                None if nothing else "up" if linear or not gated else "gate"
                for nothing, linear in zip(none, follows, strict=True)
            ]
            parts += _stored(name, roles).items()
        found.sizes["feed_forward"] = len(inner)
        if sorted(role for role, _ in parts) != (["gate", "up"] if gated else ["up"]):
            found.open.append(f"{self.path}.{down}: up and gate were not told apart among {', '.join(moved)}")
            return []
        return [FeedForwardShape(**dict(parts), down=down)]

    # ---- norms

    def _placed(self, attention: AttentionShape, ffn: FeedForwardShape, cross: AttentionShape | None) -> BlockShape:
        """The block's norms: by what they read and who reads them."""
        entered, left = self.runs.plain.inputs[self.path], self.runs.plain.outputs[self.path]
        reads = {"norm_attention": storage_path(attention.query), "norm_ffn": storage_path(ffn.up)}
        gives = {"norm_attention": attention.output, "norm_ffn": ffn.down}
        if cross is not None:
            reads["norm_cross"], gives["norm_cross"] = storage_path(cross.query), cross.output
        norms: dict[str, Any] = {name: self._norm_giving(self.given(at)) for name, at in reads.items()}
        after = {f"{name}_out": self._norm_reading(self.gave(at)) for name, at in gives.items()}
        placement: Placement = "pre"
        if any(after.values()):
            placement = "sandwich" if any(norms.values()) else "output"
            norms |= {name: path for name, path in after.items() if name != "norm_cross_out"}
        elif self._norm_giving(left) is not None:
            placement = "post"
            norms = {name: self._norm_reading(self.gave(gives[name]) + self.given(reads[name])) for name in reads}
        elif norms["norm_ffn"] is not None and same(self.given(norms["norm_ffn"]), entered):
            placement = "parallel"
        first = next((path for path in norms.values() if path is not None), None)
        kind = {} if first is None else self._kind(first)
        return BlockShape(
            attention=attention,
            ffn=ffn,
            cross_attention=cross,
            placement=placement,
            returns=self.runs.plain.tuples.get(self.path, 0),
            **norms,
            **kind,
        )

    def _norm_giving(self, wanted: Tensor) -> str | None:
        return self._inside(self.runs.giving(wanted, self.norms))

    def _norm_reading(self, wanted: Tensor) -> str | None:
        return self._inside(self.runs.reading(wanted, self.norms))

    def _inside(self, name: str | None) -> str | None:
        return None if name is None else name.removeprefix(f"{self.path}.")

    def _kind(self, name: str) -> dict[str, Any]:
        """Kind and offset of a norm, by computing it."""
        module, given = self.runs.module(f"{self.path}.{name}"), self.given(name)
        epsilon = getattr(module, "variance_epsilon", None) or module.eps
        bias = 0.0 if getattr(module, "bias", None) is None else module.bias
        for kind, x in (("rms", given), ("layer", given - given.mean(-1, keepdim=True))):
            for offset in (0.0, 1.0):
                gain = offset + module.weight
                if same(x * (x.square().mean(-1, keepdim=True) + epsilon).rsqrt() * gain + bias, self.gave(name)):
                    return {"norm": kind, "norm_offset": offset}
        return {}


def _features(moved: Tensor) -> Tensor:
    """How many features of the reader each row moves."""
    return (moved != 0).any(1).sum(1)


def _elsewhere(moved: Tensor) -> Tensor:
    """Which rows move something at other positions than their own."""
    others = torch.arange(moved.shape[1]) != PLACE
    return (moved[:, others] != 0).flatten(1).any(1)


def _same_head(values_TF: Tensor) -> int:
    """How many features belong to one head: over the positions, they move in proportion to one another."""
    most = values_TF[:, int(values_TF.abs().amax(0).argmax())]
    places = most.abs() > 1e-4 * most.abs().max()
    ratio = values_TF[places] / most[places, None]
    alike = (ratio.amax(0) - ratio.amin(0)) < 1e-3 * ratio.abs().amax(0)
    return int(alike.sum())


def _stored(name: str, roles: list[str | None]) -> dict[str, Storage]:
    """Where the parts of a map lie among its rows; empty when they follow no order. Idle rows go with those before."""
    last = next((role for role in roles if role is not None), "")
    filled = [last := role or last for role in roles]
    order = [role for role, _ in groupby(filled)]
    parts = tuple(dict.fromkeys(order))
    periods = len(order) // len(parts)
    if order != list(parts) * periods:
        return {}
    if len(parts) == 1:
        return {parts[0]: name}
    return {part: Fused(name, part, parts, periods > 1) for part in parts}

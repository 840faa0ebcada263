"""Apply a declaration to a model: find every part, work out its axes, refuse what does not fit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from pomona.anatomy.bind_around import Surroundings
from pomona.anatomy.bind_block import BlockBinder
from pomona.anatomy.block import Stack
from pomona.anatomy.declaration import HeadShape, Shape, StackShape
from pomona.anatomy.find import Finder, inputs_of, is_linear, outputs_of
from pomona.anatomy.guests import guests_of
from pomona.anatomy.head import Head
from pomona.anatomy.space import Axis, Space
from pomona.anatomy.surroundings import MAPS, OWN_TOKENS
from pomona.anatomy.weight import Norm, Weight


@dataclass(frozen=True)
class Bound:
    """What a declaration says about one model."""

    stacks: list[Stack]
    embedding: Weight | None
    embedding_scale: float
    around: dict[str, Weight | Norm]
    head: Head | None
    residual: Space
    vocabulary: Space | None
    own_tokens: int

    def parts(self) -> Iterator[Weight]:
        """Every weight, bias, gain and table; tied ones under each of their roles."""
        if self.embedding is not None:
            yield self.embedding
        for stack in self.stacks:
            yield from stack.parts()
        for part in self.around.values():
            yield from part.weights()
        if self.head is not None:
            yield from self.head.parts()


class Binder:
    """Binds one declaration to one model. Raises `UnsupportedModel` when a part is absent or has another size."""

    def __init__(self, model: Any, shape: Shape) -> None:
        self.model, self.shape = model, shape
        self.find = Finder(model, shape)
        self.body_path = self.find.body_path
        self.residual = self.find.residual
        self.vocabulary: Space | None = None
        if shape.embedding is not None:
            vocab_size = self.find.size("vocabulary", "", int(self.find.field(shape.fields.vocabulary)))
            self.vocabulary = Space("vocabulary", vocab_size)
        known = [self.residual] if self.vocabulary is None else [self.residual, self.vocabulary]
        self.surroundings = Surroundings(self.find, known)

    def bind(self) -> Bound:
        around = self.surroundings.bind([part for part in self.shape.around if MAPS not in part.sides])
        own = sum(part.numel() for role, part in around.items() if isinstance(part, Weight) and role in OWN_TOKENS)
        self.own_tokens = own // self.residual.size
        stacks = [self._stack(stack) for stack in self.shape.stacks]
        self.surroundings.heads = [block.attention.heads for stack in stacks for block in stack.blocks]
        around |= self.surroundings.bind([part for part in self.shape.around if MAPS in part.sides])
        return Bound(
            stacks=stacks,
            embedding=None
            if self.shape.embedding is None or self.vocabulary is None
            else self._table("embedding", self.shape.embedding, self.vocabulary),
            embedding_scale=self.find.factor(self.shape.embedding_scale),
            around=around,
            head=self._head(),
            residual=self.residual,
            vocabulary=self.vocabulary,
            own_tokens=self.own_tokens,
        )

    def _table(self, role: str, at: str | None, rows: Space | str, over: str | None = None) -> Weight | None:
        features = self.surroundings.axis(over or self.shape.embedding_features)
        return None if at is None else self.find.table(role, self.body_path, at, rows, features)

    def _head(self) -> Head | None:
        """The first declared head whose modules are there."""
        find, declared = self.find, self.shape.head
        choices = ((declared,) if declared is not None else ()) + self.shape.classifiers
        for choice in choices:
            modules = [path for path in (choice.path, choice.transform) if path is not None]
            found = [find.find("", path) for path in modules]
            if all(at is not None and (at[0] != choice.path or is_linear(at[1])) for at in found):
                return self._bind_head(choice)
        return None

    def _bind_head(self, declared: HeadShape) -> Head:
        find, parts = self.find, list[Weight]()
        _, linear = find.need("", declared.path)
        features = self.surroundings.axis(declared.features, (inputs_of(linear),))
        outputs = self.surroundings.axis(declared.outputs, (outputs_of(linear),))
        if declared.transform_linear is not None:
            dense = find.linear("head.transform", "", declared.transform_linear, features.spaces, (self.residual,))
            parts += dense.weights()
        norm = find.norm("head.norm", "", declared.transform_norm, features, "layer", 0.0)
        weight = find.linear("head", "", declared.path, outputs.spaces, features.spaces)
        if declared.bias is not None:
            weight = replace(weight, bias=find.vector("head.bias", "", declared.bias, outputs))
        return Head(
            weight=weight,
            module=find.need("", declared.module or declared.path)[1],
            pool=declared.pool,
            own_tokens=self.own_tokens,
            transform=None if declared.transform is None else find.need("", declared.transform)[1],
            transform_parts=parts + (norm.weights() if norm else []),
            norm=norm,
            direct=declared.module is None,
            added=None if declared.added is None else getattr(self.model, declared.added, None),
            scale=find.factor(declared.scale),
            logits_scale=find.factor(declared.logits_scale),
            softcap=find.number(declared.softcap),
        )

    def _stack(self, declared: StackShape) -> Stack:
        find = self.find
        path, container = find.need(self.body_path, declared.blocks)
        if not isinstance(container, nn.ModuleList):
            raise find.refusal(f"a list of blocks at {path}", type(container).__name__)
        causal = declared.causal if isinstance(declared.causal, bool) else bool(find.field(declared.causal, False))
        binder = BlockBinder(find, declared, self.residual, causal)
        blocks = [binder.bind(index, f"{path}.{index}", module) for index, module in enumerate(container)]
        bias_table = None
        if declared.bias_table is not None:
            heads = Axis((blocks[0].attention.heads,))
            bias_table = find.table("bias_table", self.body_path, declared.bias_table, "bucket", heads)
        tables = [self._table(name, at, name) for at, name in declared.tables]
        first = declared.first_position
        return Stack(
            name=declared.name,
            path=path,
            container=container,
            blocks=blocks,
            causal=causal,
            positions=self._table("positions", declared.positions, "position", declared.positions_features),
            first_position=first if isinstance(first, int) else int(find.field(first)) + 1,
            tables=[table for table in tables if table is not None],
            embedding_norm=self._norm(
                "embedding_norm", declared, declared.embedding_norm, declared.embedding_norm_over
            ),
            bias_table=bias_table,
            final_norm=self._norm("final_norm", declared, declared.final_norm),
            returns=declared.block.returns,
            carries=declared.block.carries,
            interrupted=declared.between is not None and find.find(self.body_path, declared.between) is not None,
        )

    def _norm(self, role: str, stack: StackShape, at: str | None, over: str = "residual") -> Norm | None:
        block, axis = stack.block, self.surroundings.axis(over)
        return self.find.norm(role, self.body_path, at, axis, block.norm, block.norm_offset)


def uncovered(model: nn.Module, parts: Sequence[Weight]) -> list[str]:
    """Names of the parameters that no part views, guests apart."""
    covered = {id(part.parameter) for part in parts} | {id(parameter) for parameter in guests_of(model).values()}
    return [name for name, parameter in model.named_parameters() if id(parameter) not in covered]

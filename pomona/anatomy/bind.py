"""Apply a declaration to a model: find every part, work out its axes, refuse what does not fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from pomona.anatomy.bind_block import BlockBinder
from pomona.anatomy.block import Stack
from pomona.anatomy.declaration import Shape, StackShape
from pomona.anatomy.find import Finder
from pomona.anatomy.space import Axis, Space
from pomona.anatomy.weight import Norm, Weight


@dataclass(frozen=True)
class Head:
    """What lies between hidden states and logits: a transform, a factor, a linear map, a factor and a cap."""

    weight: Weight
    module: nn.Module
    transform: nn.Module | None
    transform_parts: list[Weight]
    scale: float
    logits_scale: float
    softcap: float | None

    @property
    def plain(self) -> bool:
        """True when the linear map is all there is."""
        factors = (self.scale, self.logits_scale, self.softcap, self.transform)
        return factors == (1.0, 1.0, None, None)


@dataclass(frozen=True)
class Bound:
    """What a declaration says about one model."""

    stacks: list[Stack]
    embedding: Weight
    embedding_scale: float
    head: Head | None
    residual: Space
    vocabulary: Space


class Binder:
    """Binds one declaration to one model. Raises `UnsupportedModel` when a part is absent or has another size."""

    def __init__(self, model: Any, shape: Shape) -> None:
        self.model, self.shape = model, shape
        self.find = Finder(model, shape)
        body: nn.Module = model.base_model
        self.body_path = next(name for name, module in model.named_modules() if module is body)
        self.residual = Space("residual", int(self.find.field(shape.fields.hidden_size)))
        self.vocabulary = Space("vocabulary", int(self.find.field(shape.fields.vocabulary)))

    def bind(self) -> Bound:
        return Bound(
            stacks=[self._stack(stack) for stack in self.shape.stacks],
            embedding=self.find.table("embedding", self.body_path, self.shape.embedding, self.vocabulary),
            embedding_scale=self.find.factor(self.shape.embedding_scale),
            head=self._head(),
            residual=self.residual,
            vocabulary=self.vocabulary,
        )

    def _head(self) -> Head | None:
        declared, find = self.shape.head, self.find
        found = None if declared is None else find.find("", declared.path)
        if declared is None or found is None:
            return None
        residual = (self.residual,)
        parts: list[Weight] = []
        if declared.transform_linear is not None:
            dense = find.linear("head.transform", "", declared.transform_linear, residual, residual)
            parts += [dense] if dense.bias is None else [dense, dense.bias]
        norm = find.norm("head.norm", "", declared.transform_norm, Axis(residual), "layer", 0.0)
        return Head(
            weight=find.linear("head", "", declared.path, (self.vocabulary,), residual),
            module=found[1],
            transform=None if declared.transform is None else find.need("", declared.transform)[1],
            transform_parts=parts + (norm.weights() if norm else []),
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
        blocks = BlockBinder(find, declared, self.residual, causal)
        return Stack(
            name=declared.name,
            path=path,
            container=container,
            blocks=[blocks.bind(index, f"{path}.{index}", module) for index, module in enumerate(container)],
            causal=causal,
            positions=None
            if declared.positions is None
            else find.table("positions", self.body_path, declared.positions, "position"),
            tables=[find.table(name, self.body_path, at, name) for at, name in declared.tables],
            embedding_norm=self._norm("embedding_norm", declared, declared.embedding_norm),
            final_norm=self._norm("final_norm", declared, declared.final_norm),
            returns=declared.block.returns,
            carries=declared.block.carries,
        )

    def _norm(self, role: str, stack: StackShape, at: str | None) -> Norm | None:
        block = stack.block
        return self.find.norm(role, self.body_path, at, Axis((self.residual,)), block.norm, block.norm_offset)


def uncovered(model: nn.Module, parts: Sequence[Weight]) -> list[str]:
    """Names of the parameters that no part views."""
    covered = {id(part.parameter) for part in parts}
    return [name for name, parameter in model.named_parameters() if id(parameter) not in covered]

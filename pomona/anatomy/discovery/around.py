"""Find what lies around the blocks of an unknown model: embedding, tables that are added, norms, head."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from pomona.anatomy.declaration import HeadShape, Pool
from pomona.anatomy.discovery.runs import Runs, same
from pomona.anatomy.surroundings import Part, linear


@dataclass
class Surrounding:
    """What precedes and follows one stack; paths are from the body."""

    embedding: str | None = None
    embedding_features: str = "residual"
    embedding_norm: str | None = None
    embedding_norm_over: str = "residual"
    projections: tuple[Part, ...] = ()
    positions: str | None = None
    positions_features: str | None = None
    first_position: int = 0
    tables: tuple[tuple[str, str], ...] = field(default=())
    final_norm: str | None = None
    left: Tensor = field(default_factory=lambda: torch.empty(0))
    """What the head reads."""


class AroundFinder:
    """Looks at everything of a model that is in none of its `stacks`, given by their paths."""

    def __init__(self, runs: Runs, stacks: list[str]) -> None:
        self.runs, self.stacks = runs, stacks
        self.norms = [name for name in runs.norms() if self._outside(name)]
        self.linears = [name for name in runs.linears() if self._outside(name)]
        self.words = runs.model.get_input_embeddings()
        self.width = runs.plain.inputs[f"{stacks[0]}.0"].shape[-1]

    def find(self, stack: str) -> Surrounding:
        """What precedes and follows the blocks at `stack`."""
        found, runs = Surrounding(), self.runs
        maps, norms = ([name for name in names if self._of_body(name)] for names in (self.linears, self.norms))
        entered = embedded = runs.plain.inputs[f"{stack}.0"]
        if isinstance(self.words, nn.Embedding):
            words = next(name for name, module in runs.model.named_modules() if module is self.words)
            found.embedding, embedded = self._inside(words), runs.plain.outputs.get(words, entered)
        norm = runs.giving(entered, norms)
        projection = runs.giving(entered, maps) or runs.reading(embedded, maps)
        if projection is not None:
            found.projections += (linear("embedding_projection", self._inside(projection), "residual", "embedding"),)
            found.embedding_features = "embedding"
            if norm is None and (norm := runs.giving(runs.plain.inputs[projection], norms)):
                found.embedding_norm_over = "embedding"
        found.embedding_norm = None if norm is None else self._inside(norm)
        self._tables(stack, found)

        found.left = runs.plain.outputs[f"{stack}.{len(runs.module(stack)) - 1}"]
        if norm := runs.reading(found.left, norms):
            found.final_norm, found.left = self._inside(norm), runs.plain.outputs[norm]
        projection = runs.reading(found.left, maps) if runs.body else None
        if projection is not None:
            found.projections += (linear("output_projection", self._inside(projection), "embedding", "residual"),)
            found.left = runs.plain.outputs[projection]
        return found

    def _tables(self, stack: str, found: Surrounding) -> None:
        """Tables of which one row acts at each position: by the gradients of what enters the first block."""
        words = {id(parameter) for parameter in self.words.parameters()}
        tables = {
            name: parameter
            for name, parameter in self.runs.model.named_parameters()
            if parameter.dim() > 1 and self._outside(name) and id(parameter) not in words
        }
        if not tables:
            return
        entered = self.runs.flow(self.runs.inputs).inputs[f"{stack}.0"]
        acting: list[list[list[int]]] = []
        for place in (0, 1):
            mixed = entered[0, place] @ torch.arange(1.0, 1 + entered.shape[-1], dtype=entered.dtype)
            gradients = torch.autograd.grad(mixed, list(tables.values()), retain_graph=True, allow_unused=True)
            acting.append([_rows(gradient) for gradient in gradients])
        for name, first, second in zip(tables, *acting, strict=True):
            path = self._inside(name.removesuffix(".weight"))
            if len(first) == len(second) == 1 and second[0] == first[0] + 1:
                found.positions, found.first_position = path, first[0]
                if found.projections and tables[name].shape[-1] == self.width:
                    found.positions_features = "residual"
            elif first == second == [0]:
                found.tables += ((path, path.rpartition(".")[2]),)

    def _of_body(self, name: str) -> bool:
        return name.startswith(f"{self.runs.body}.") if self.runs.body else True

    def _outside(self, name: str) -> bool:
        return not any(name.startswith(f"{stack}.") for stack in self.stacks)

    def _inside(self, name: str) -> str:
        """A path from the body."""
        return name.removeprefix(f"{self.runs.body}.") if self.runs.body else name

    # ---- head

    def head(self, hidden: Tensor) -> HeadShape | None:
        """The linear map that gives the logits, and what is between it and the hidden states."""
        flow, body = self.runs.plain, self.runs.body
        beyond = [name for name in flow.inputs if name != body and not (body and self._of_body(name))]
        maps = [name for name in beyond if name in self.linears]
        if not maps:
            return None
        path = maps[-1]
        in_words = isinstance(self.words, nn.Embedding) and flow.outputs[path].shape[-1] == self.words.num_embeddings
        outputs = "vocabulary" if in_words else "label"
        reads = flow.inputs[path]
        features = "residual" if reads.shape[-1] == self.width else "embedding"
        pools: dict[Pool, Tensor] = {"tokens": hidden, "first": hidden[:, 0], "mean": hidden.mean(1)}
        for pool, values in pools.items():
            if same(reads, values):
                return HeadShape(path=path, outputs=outputs, pool=pool, features=features)
        starts = [name for name in beyond if same(flow.inputs[name], hidden)]
        whole = self.runs.giving(flow.outputs[path], starts)
        transform = self.runs.giving(reads, reversed(starts))
        return HeadShape(
            path=path,
            outputs=outputs,
            features=features,
            pool="tokens" if whole or transform else None,
            module=None if transform else whole,
            transform=transform,
            transform_linear=next((name for name in starts if name in maps), None),
            transform_norm=self.runs.giving(reads, self.norms),
        )


def _rows(gradient: Tensor | None) -> list[int]:
    """The rows of a table that a gradient reaches."""
    if gradient is None:
        return []
    reached: list[int] = gradient.reshape(-1, gradient.shape[-1]).abs().amax(1).nonzero().flatten().tolist()
    return reached

"""What the heads of a model attend to, in four numbers per head, without keeping an attention map.

    figures = head_statistics(model, batches)[Place("blocks", 3, cross=False)]
    figures.entropy                                     # (N,) nats

The probabilities of a few queries exist at a time: memory grows with the length, not with its square.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from pomona.anatomy.attention_call import AttentionCall, Effect, Place
from pomona.anatomy.body import Anatomy, of
from pomona.anatomy.dispatch import Modifier, modify_attention
from pomona.anatomy.modifiers import Where, everywhere
from pomona.ground.errors import ConfigError


@dataclass(frozen=True)
class HeadFigures:
    """Means over the queries that were seen, one number per head, each (N,) float64.

    Args:
        entropy: of the probabilities, in nats: 0 for one key, log(keys) for an even spread.
        first: probability of the first key, where attention without use often goes.
        largest: the largest probability.
        distance: mean |t - s| in tokens between query and keys, or None in cross-attention, which has no common places.
        queries: how many were seen.
    """

    entropy: Tensor
    first: Tensor
    largest: Tensor
    distance: Tensor | None
    queries: int


@dataclass(eq=False)
class HeadStatistics(Modifier):
    """Collects `HeadFigures` while a model runs, also in training; gradients do not pass through it.

    Attributes:
        where: which attentions.
        counted: by name of the stack, the queries that count: (B, T) bool, False for padding. Set before each forward
            pass of padded batches; a stack that is not named counts all.
    """

    where: Where = everywhere
    counted: dict[str, Tensor] = field(default_factory=dict)
    effects: ClassVar[frozenset[Effect]] = frozenset({"watch"})
    _sums: dict[Place, Tensor] = field(default_factory=dict, init=False)
    _queries: dict[Place, int] = field(default_factory=dict, init=False)

    def modify(self, call: AttentionCall) -> None:
        if not self.where(call.place):
            return
        counted = self.counted.get(call.place.stack)
        if counted is None:
            counted = torch.ones(call.batch, call.queries, dtype=torch.bool)
        counted = counted.to(call.query.device, torch.bool)
        if tuple(counted.shape) != (call.batch, call.queries):
            raise ConfigError(
                f"the queries to be counted in {call.place} have the wrong shape",
                needs=str((call.batch, call.queries)),
                found=str(tuple(counted.shape)),
            )
        self._queries[call.place] = self._queries.get(call.place, 0) + int(counted.sum())
        keys = torch.arange(call.keys, device=call.query.device)

        def look(rows: slice, probabilities: Tensor) -> None:
            places = torch.arange(rows.start, rows.stop, device=keys.device) + call.first
            figures = torch.stack(
                [
                    torch.special.entr(probabilities).sum(-1),
                    probabilities[..., 0],
                    probabilities.amax(-1),
                    torch.einsum("bnts,ts->bnt", probabilities, (places[:, None] - keys).abs().to(probabilities)),
                ]
            )
            total = torch.einsum("fbnt,bt->fn", figures.double(), counted[:, rows].double())
            before = self._sums.get(call.place)
            self._sums[call.place] = total if before is None else before + total

        call.watch(look)

    def figures(self) -> dict[Place, HeadFigures]:
        """The means of everything seen so far, on the processor."""
        found = {}
        for place, sums in self._sums.items():
            entropy, first, largest, distance = sums.cpu() / self._queries[place]
            found[place] = HeadFigures(entropy, first, largest, None if place.cross else distance, self._queries[place])
        return found


@torch.no_grad()
def head_statistics(
    model: Any, batches: Iterable[dict[str, Tensor]], where: Where = everywhere
) -> dict[Place, HeadFigures]:
    """The figures of every head, from forward passes of `batches` in evaluation mode; padded queries do not count.

    Args:
        model: a transformers model, or its anatomy.
        batches: inputs of the model as keyword arguments; padding on the right, told by attention_mask and
            decoder_attention_mask (B, T).
        where: which attentions.
    Raises:
        ConfigError: no batch, or padding on the left, where the first key is no token.
        UnsupportedModel: the model's attention does not go through transformers' AttentionInterface.
    """
    body = model if isinstance(model, Anatomy) else of(model)
    statistics, training = HeadStatistics(where), body.model.training
    body.model.eval()
    try:
        with modify_attention(body, [statistics]):
            for batch in batches:
                statistics.counted = _real(body, batch)
                body.hidden(**batch)
    finally:
        body.model.train(training)
    return statistics.figures()


def _real(body: Anatomy, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The queries that are no padding, by stack."""
    real = {}
    for stack, name in zip(body.stacks, ("attention_mask", "decoder_attention_mask"), strict=False):
        mask = batch.get(name)
        if mask is None or mask.dim() != 2:
            continue
        real[stack.name] = mask.bool()
        if not bool(real[stack.name][:, 0].all()):
            raise ConfigError(
                "statistics of attention need padding on the right",
                where=name,
                found="padding on the left",
                do="set tokenizer.padding_side = 'right'",
            )
    return real

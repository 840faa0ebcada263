"""A small masked language model beside an encoder, of its own family, whose guesses corrupt the encoder's input."""

from __future__ import annotations

import inspect
from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pomona import anatomy
from pomona.anatomy import Anatomy, entering
from pomona.engine.head_loss import drawn_labels
from pomona.ground.errors import UnsupportedModel

SIZES = ("hidden_size", "num_attention_heads", "intermediate_size")
"""Fields of a configuration that a generator has smaller ones of."""


class Generator(nn.Module):
    """Reads text with masks and gives logits over the vocabulary.

    It is made of as many blocks as the encoder, of the same kind and heads of the same size, but fewer heads. With
    shared embeddings it reads what enters the encoder's blocks through a linear map of its own, and its logits are
    products with the encoder's token table; nothing else is shared.

    Args:
        body: of the encoder. It is not a submodule; its embeddings stay its own.
        ratio: heads of the generator over those of the encoder, in (0, 1]; rounded to at least one head.
        shared: use the encoder's embeddings; else the generator has its own.
    Raises:
        UnsupportedModel: the encoder's configuration does not say its sizes under the usual names, or the encoder takes
            no embeddings for inputs.
    """

    def __init__(self, body: Anatomy, *, ratio: float, shared: bool) -> None:
        super().__init__()
        self._encoder = [body]  # in a list, so that it does not become a submodule
        self.shared = shared
        self.model = smaller(body, ratio)
        self.body = anatomy.of(self.model)
        assert body.embedding is not None and self.body.embedding is not None
        width = body.embedding.shape[1]
        self.projection: nn.Linear | None = None
        if shared:
            takes = self.body.embedding.shape[1]
            self.projection = None if takes == width else nn.Linear(width, takes)
            self._add_nothing()
        else:
            width = self.body.embedding.shape[1]
        self.dense, self.norm = nn.Linear(self.body.hidden_size, width), nn.LayerNorm(width)
        self.bias = nn.Parameter(torch.zeros(body.vocab_size))

    def _add_nothing(self) -> None:
        """Let the model add nothing to the embeddings that it is given: they have positions and token types already."""
        self.model.set_input_embeddings(nn.Embedding(1, self.body.embedding.shape[1]))  # type: ignore[union-attr]
        self.model.get_input_embeddings().requires_grad_(False)
        for stack in self.body.stacks:
            for table in (stack.positions, *stack.tables):
                if table is not None:
                    nn.init.zeros_(table.parameter.requires_grad_(False))

    def forward(self, picked_BT: Tensor, **inputs: Any) -> Tensor:
        """(P, V) float32 logits at the picked positions, in their order.

        Args:
            inputs: of the encoder: input_ids, and attention_mask and position_ids where there are some.
        """
        encoder = self._encoder[0]
        assert encoder.embedding is not None and self.body.embedding is not None
        table = encoder.embedding.parameter
        if self.shared:
            embeds = entering(encoder, **inputs)
            given = {"inputs_embeds": embeds if self.projection is None else self.projection(embeds)}
            takes = inspect.signature(self.model.forward).parameters
            others = {"attention_mask", "position_ids"} & inputs.keys() & takes.keys()
            given |= {name: inputs[name] for name in others}
            hidden = self.model(**given)[0]
        else:
            table = self.body.embedding.parameter
            hidden = self.model(**inputs)[0]
        made = self.norm(F.gelu(self.dense(hidden[picked_BT])))
        return F.linear(made, table, self.bias).float()


def smaller(body: Anatomy, ratio: float) -> Any:
    """A new model of an encoder's family, without a head, with `ratio` of its heads and as much smaller."""
    config = deepcopy(body.config)
    missing = [name for name in SIZES if not isinstance(getattr(config, name, None), int)]
    if missing or "inputs_embeds" not in inspect.signature(body.base.forward).parameters:
        raise UnsupportedModel(
            f"no smaller model like {type(body.model).__name__} can be made",
            needs=f"a configuration with {', '.join(SIZES)}, and a forward that takes inputs_embeds",
            found=f"none of {', '.join(missing)}" if missing else "no inputs_embeds",
            do="set generator to unigram or uniform, which need no network",
        )
    heads = max(1, round(config.num_attention_heads * ratio))
    share = heads / config.num_attention_heads
    config.num_attention_heads = heads
    config.hidden_size = round(body.config.hidden_size * share)
    config.intermediate_size = max(1, round(body.config.intermediate_size * share))
    return type(body.base)(config)


def sample(logits_PV: Tensor, chances_P: Tensor, *, temperature: float, barred_P: Tensor | None = None) -> Tensor:
    """(P,) int64 tokens drawn from softmax(logits / temperature), without gradients; see `drawn_labels`.

    Args:
        logits_PV: float.
        chances_P: float, uniform in [0, 1): they alone decide which tokens are drawn.
        temperature: >= 0; 0 takes the most likely token.
        barred_P: int64, a token of each position that is not drawn; None bars nothing.
    """
    logits = logits_PV.detach().float()
    if barred_P is not None:
        logits = logits.scatter(1, barred_P.unsqueeze(1), -torch.inf)
    if temperature == 0.0:
        return logits.argmax(1)
    return drawn_labels(logits / temperature, torch.zeros_like(chances_P, dtype=torch.int64), chances_P)

"""MP3: hide every position, and let the model say where each token came from.

Source: "Position Prediction as an Effective Pretraining Strategy", ICML 2022, arXiv:2207.07611, Sec. 3.
Implements: the model sees tokens (pieces of text, patches of images) without positions: tables of learned positions are
    zero and stay so while it trains, rotary positions are those of one place. A random context C of round((1 - eta) N)
    of the N tokens is drawn for each sequence. In every block queries come from all tokens, keys and values from the
    tokens in C alone, as they then are. A LayerNorm and a linear map give N logits for each token; the loss is the mean
    cross-entropy to the token's own place, over all N.
Deviations: the linear map is as long as the longest sequence, its first N rows are used. Tokens that a model adds by
    itself (a class token) are never in C and are not counted, in place of being left out. Since nothing tells the order
    of the input, it is not shuffled.
Left out: a context that is frozen at the embeddings (some public code), and guards against shortcuts in images (colour
    jitter): they belong to what makes the batches.
Use when: before fine-tuning an encoder of images, or of text by long-range order (exploratory). Cost: one pass; the
    attention to 1 - eta of the tokens is computed as a masked one.
Relations: `masked-lm` predicts what is at a place, this the place of what is there. At eta 0 attention is the model's
    own without positions.
Limits: encoders whose positions can be taken away: learned or rotary ones, no windows, no relative biases. Continued,
    a model with learned positions loses them: fine-tuning begins with a table of zeros, or keeps it so to do without.
"""

from __future__ import annotations

import inspect
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from pomona.anatomy import Anatomy, AttentionCall, modify_attention
from pomona.anatomy.inputs import example_inputs
from pomona.anatomy.modifiers import SparseMask
from pomona.engine.auxiliary import AuxiliaryObjective
from pomona.engine.protocols import IGNORED, Batch, Loss
from pomona.ground.errors import ConfigError, UnsupportedModel
from pomona.objectives.choice import choose
from pomona.objectives.config import ObjectiveConfig
from pomona.objectives.documents import require_length


class Mp3Config(ObjectiveConfig):
    """Tell where each token came from, without positions."""

    method: Literal["mp3-position-prediction"] = "mp3-position-prediction"
    heads: ClassVar[tuple[str, ...]] = ("AutoModel",)
    eta: float = Field(default=0.75, ge=0.0, lt=1.0)
    """Share of the tokens that no token may look at (Sec. 4: 0.5 to 0.9 by modality)."""
    loss_on: Literal["all", "masked", "context"] = "all"
    """Which tokens are counted: all, those outside of the context, or those in it."""
    places: PositiveInt | None = None
    """Places that are told apart. Default: the model's positions."""

    def build(self, tokenizer: Any = None) -> Mp3:
        """The objective; a tokenizer is not needed."""
        return Mp3(self)


class Mp3(AuxiliaryObjective):
    """See the card of this module. Fulfils `engine.protocols.Objective`.

    Batches hold `tokens` (B, T+1), or `pixel_values` (B, channels, height, width) of as many patches as the model has
    positions.
    """

    name = "mp3-position-prediction"
    is_likelihood = False

    def __init__(self, config: Mp3Config) -> None:
        super().__init__()
        self.config = config
        self.places = config.places or 0
        self.head: nn.Module | None = None

    def attach(self, body: Anatomy, *, seed: int) -> None:
        """Make the head for an encoder, and take the positions away from it.

        Raises:
            UnsupportedModel: see `check`.
            ConfigError: how many places there are is not known.
        """
        self._check_positions(body)
        self.places = self.config.places or places_of(body) or 0
        if not self.places:
            raise ConfigError(
                f"{self.name} does not know how many places there are",
                needs="a limit of the model's positions",
                found="none",
                do="set `places` to the length of the longest sequence",
            )
        for stack in body.stacks:
            if stack.positions is not None:
                nn.init.zeros_(stack.positions.parameter.requires_grad_(False))
        self.head = nn.Sequential(nn.LayerNorm(body.hidden_size), nn.Linear(body.hidden_size, self.places))
        self.companions = [self.head]

    def prepare(self, batch: Batch, generator: torch.Generator) -> Batch:
        """`input_ids` or `pixel_values`, `context` (B, N) bool, and `labels` (B, N): the place of each token."""
        if "pixel_values" in batch:
            made = {"pixel_values": batch["pixel_values"]}
            rows, length = batch["pixel_values"].shape[0], self.places
        else:
            made = {"input_ids": batch["tokens"][:, :-1].contiguous()}
            rows, length = made["input_ids"].shape
        kept = max(1, round((1 - self.config.eta) * length))
        everything = torch.ones(rows, length, dtype=torch.bool)
        context = choose(everything, torch.full((rows,), kept), generator)
        labels = torch.arange(length).repeat(rows, 1)
        if self.config.loss_on != "all":
            labels[context if self.config.loss_on == "masked" else ~context] = IGNORED
        return {**made, "context": context, "labels": labels}

    def check(self, body: Anatomy) -> None:
        """Raise `UnsupportedModel` unless the model's positions can be taken away, and were (`attach`)."""
        self._check_positions(body)
        if self.head is None:
            raise UnsupportedModel(
                f"{self.name} has no head for {type(body.model).__name__}",
                needs="a head that was trained with the model",
                found="none: it is not kept with the model",
                do="score the model by what it is used for",
            )

    def _check_positions(self, body: Anatomy) -> None:
        body.require("bidirectional", "blockwise", method=self.name)
        for name in ("relative_bias", "disentangled", "sliding_window"):
            if name in body.capabilities:
                raise UnsupportedModel(
                    f"{self.name} cannot take the positions away from {type(body.model).__name__}",
                    needs="learned or rotary positions, and attention to all of the sequence",
                    found=name.replace("_", " "),
                    do="choose another encoder",
                )

    def __call__(self, body: Anatomy, batch: Batch) -> Loss:
        """Nats summed over the counted tokens.

        Raises:
            UnsupportedModel: see `check`.
            ConfigError: the sequence is longer than the places that the head tells apart.
        """
        self.check(body)
        labels = batch["labels"]
        logits = self.logits(body, batch)
        counted = labels != IGNORED
        total = F.cross_entropy(logits[counted], labels[counted], reduction="sum")
        return Loss(total, counted.sum(), ((logits.argmax(-1) == labels) & counted).sum())

    def logits(self, body: Anatomy, batch: Batch) -> Tensor:
        """(B, N, N) float32 logits of the places of N tokens."""
        assert self.head is not None
        length = batch["context"].shape[1]
        if length > self.places:
            raise ConfigError(
                f"{self.name}: sequences are longer than the places that are told apart",
                needs=f"at most {self.places} tokens",
                found=f"{length}",
                do="shorten seq_length, or set `places`",
            )
        if body.embedding is not None:
            require_length(body, length, self.name)

        def seen(call: AttentionCall, rows: slice) -> Tensor:
            """Tokens that the model adds by itself stand first; nobody looks at them."""
            return F.pad(batch["context"], (call.keys - length, 0))[:, None, None, :]

        with modify_attention(body, [SparseMask(seen)]):
            hidden = body.hidden(**inputs_of(body, batch))
        scores: Tensor = self.head(hidden[:, -length:])
        return scores[..., :length].float()


def places_of(body: Anatomy) -> int | None:
    """How many tokens made of the input a model has positions for; None where nothing limits them."""
    if body.embedding is not None:
        return body.max_positions
    with torch.no_grad():  # how many patches an image has, its stem knows
        return int(body.hidden(**example_inputs(body, batch=1)).shape[1]) - body.own_tokens


def inputs_of(body: Anatomy, batch: Batch) -> dict[str, Tensor]:
    """What the model is given: for words with one position for all of them, which rotary ones turn by nothing."""
    if "pixel_values" in batch:
        return {"pixel_values": batch["pixel_values"]}
    ids = batch["input_ids"]
    takes = inspect.signature(body.base.forward).parameters
    return {"input_ids": ids, **({"position_ids": torch.zeros_like(ids)} if "position_ids" in takes else {})}

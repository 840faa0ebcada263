"""UL2: one model learns short, long and sequential denoising, each announced by a token of its own.

Source: "UL2: Unifying Language Learning Paradigms", ICLR 2023, arXiv:2205.05131, Sec. 3 and Table 1.
Implements: a mixture of denoisers; each sequence is given to one of them. A denoiser hides round(density * T) tokens in
    spans of `mean_span` on average (or in one span at the end), cut at random as in T5; input is the text with a
    sentinel in the place of each span, target is each span after its sentinel, both ended by the end token.
        R, regular:     (mean 3, density 0.15), (8, 0.15)
        S, sequential:  (T/4, 0.25, one span at the end): a prefix LM
        X, extreme:     (3, 0.5), (8, 0.5), (64, 0.15), (64, 0.5)
    all seven equally often. The token of its mode stands before the input. An encoder-decoder reads the input with its
    encoder and writes the target; a causal model reads both one after the other, seeing all of the input at once
    (`attention: prefix`) or not (`causal`), and only the target counts.
Deviations: shorter sequences of a batch are padded to its longest; sequences of one denoiser are not packed.
Use when: one model is to be good at filling gaps and at writing on; or to give an existing model that ability by a
    short continuation (UL2R, arXiv:2210.11399: `continue` with `new_tokens: add`). At use, put the mode before the
    prompt: R for understanding, S to write on, X to write long. Cost: a causal model reads T + 2 * spans tokens.
Relations: one denoiser (3, 0.15) without modes is `span-corruption`; S alone is a prefix language model.
Limits: the loss is no likelihood of the text. Packed documents are not kept apart, so a stream that marks documents is
    refused. Prefix attention needs a model whose attention kernel transformers lets us choose.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor

from pomona.anatomy import Anatomy, modify_attention
from pomona.anatomy.modifiers import Bidirectional, SparseMask
from pomona.engine.head_loss import head_loss
from pomona.engine.protocols import IGNORED, Batch, Loss
from pomona.ground.config import Config
from pomona.ground.errors import ConfigError
from pomona.objectives.config import ObjectiveConfig
from pomona.objectives.documents import require_length
from pomona.objectives.spans import (
    cut_out,
    random_spans,
    refuse_documents,
    require_decoder_start,
    require_sentinels,
    sentinels_of,
    shift_right,
    span_counts,
)

Mode = Literal["R", "S", "X"]


class Denoiser(Config):
    """One way to hide tokens."""

    mode: Mode
    """Which token announces it."""
    density: float = Field(gt=0.0, lt=1.0)
    """Share of the tokens that are hidden."""
    mean_span: float | None = Field(default=None, ge=1.0)
    """Tokens in a hidden span, on average; None: all of them are one span at the end."""
    weight: PositiveFloat = 1.0
    """How often it is taken, relative to the others."""

    def spans(self, rows: int, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """(starts, noise), both (rows, length) bool: first tokens of hidden spans, and all their tokens."""
        noise, count = self.counts(length)
        if self.mean_span is not None:
            return random_spans(rows, length, noise=noise, spans=count, generator=generator)
        places = torch.arange(length).expand(rows, length)
        return places == length - noise, places >= length - noise

    def counts(self, length: int) -> tuple[int, int]:
        """(hidden tokens, spans) of a text of `length` tokens."""
        noise, count = span_counts(length, density=self.density, mean_span=self.mean_span or float(length))
        return noise, count if self.mean_span is not None else 1


DENOISERS = (
    Denoiser(mode="R", density=0.15, mean_span=3.0),
    Denoiser(mode="R", density=0.15, mean_span=8.0),
    Denoiser(mode="S", density=0.25),
    Denoiser(mode="X", density=0.5, mean_span=3.0),
    Denoiser(mode="X", density=0.5, mean_span=8.0),
    Denoiser(mode="X", density=0.15, mean_span=64.0),
    Denoiser(mode="X", density=0.5, mean_span=64.0),
)
"""The seven of Table 1."""


class Ul2Config(ObjectiveConfig):
    """Restore short, long and final spans, as a mode token asks for."""

    method: Literal["ul2"] = "ul2"
    heads: ClassVar[tuple[str, ...]] = ("AutoModelForSeq2SeqLM", "AutoModelForCausalLM")
    denoisers: tuple[Denoiser, ...] = Field(default=DENOISERS, min_length=1)
    """The mixture (Table 1). A larger weight of S makes a better writer, too large a one a worse reader (Sec. 4)."""
    modes: bool = True
    """Put the mode's token before the input (Sec. 3.1.2)."""
    mode_tokens: tuple[str, str, str] = ("[R]", "[S]", "[X]")
    """The tokens of regular, sequential and extreme denoising; in the published models [NLU], [S2S] and [NLG]."""
    attention: Literal["prefix", "causal"] = "prefix"
    """How a model without an encoder reads the input: all of it at once, or token by token."""

    def build(self, tokenizer: Any) -> Ul2:
        """The objective for a tokenizer with an end token, sentinels, and a token for each mode.

        Raises:
            ConfigError: one of them is missing.
        """
        sentinels, end_id = sentinels_of(tokenizer, self.method)
        vocabulary = tokenizer.get_vocab()
        missing = [token for token in self.mode_tokens if token not in vocabulary] if self.modes else []
        if missing:
            raise ConfigError(
                f"{self.method} needs a token for each mode",
                needs=", ".join(self.mode_tokens),
                found=f"{type(tokenizer).__name__} without {', '.join(missing)}",
                do=f"give it them (stage tokenize: `special_tokens: {list(self.mode_tokens)}`), or set modes to false",
            )
        modes = {mode: vocabulary.get(token, -1) for mode, token in zip("RSX", self.mode_tokens, strict=True)}
        pad_id = end_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        return Ul2(self, sentinels=sentinels, end_id=end_id, pad_id=pad_id, mode_ids=modes)


class Ul2:
    """See the card of this module. Fulfils `engine.protocols.Objective`.

    Args:
        config: denoisers and attention.
        sentinels: token ids, one for each span of a sequence at least.
        end_id: token that ends input and target.
        pad_id: token that fills the rest; never seen by others.
        mode_ids: token of each mode.
    """

    name = "ul2"
    is_likelihood = False

    def __init__(
        self, config: Ul2Config, *, sentinels: tuple[int, ...], end_id: int, pad_id: int, mode_ids: dict[str, int]
    ) -> None:
        self.config, self.sentinels, self.end_id = config, torch.tensor(sentinels), end_id
        self.pad_id, self.mode_ids = pad_id, mode_ids
        self.weights = torch.tensor([denoiser.weight for denoiser in config.denoisers])

    def prepare(self, batch: Batch, generator: torch.Generator) -> Batch:
        """`input_ids` and its `attention_mask` (B, T_in), `labels` (B, T_out) of `tokens` (B, T+1).

        Labels are the target, `IGNORED` after its end; the token of look-ahead is left to the next window.

        Raises:
            ConfigError: more spans than sentinels, or the stream marks documents.
        """
        refuse_documents(batch, self.name)
        tokens = batch["tokens"][:, :-1]
        rows, length = tokens.shape
        chosen = torch.zeros(rows, dtype=torch.int64)
        if len(self.weights) > 1:  # else nothing is drawn, so that one denoiser is what it is without a mixture
            chosen = torch.multinomial(self.weights, rows, replacement=True, generator=generator)
        inputs: list[Tensor] = [tokens[0]] * rows
        labels = list(inputs)
        for number, denoiser in enumerate(self.config.denoisers):
            own = (chosen == number).nonzero().flatten()
            require_sentinels(denoiser.counts(length)[1], length, self.sentinels, self.name)
            if not len(own):
                continue
            starts, noise = denoiser.spans(len(own), length, generator)
            read, written = cut_out(tokens[own], starts, noise, self.sentinels, self.end_id)
            if self.config.modes:
                mode = torch.full((len(own), 1), self.mode_ids[denoiser.mode])
                read = torch.cat([mode, read], dim=1)
            for row, one, other in zip(own.tolist(), read, written, strict=True):
                inputs[row], labels[row] = one, other
        made = {"input_ids": padded(inputs, self.pad_id), "labels": padded(labels, IGNORED)}
        counts = torch.tensor([len(each) for each in inputs])
        made["attention_mask"] = (torch.arange(made["input_ids"].shape[1]) < counts.unsqueeze(1)).long()
        return made

    def check(self, body: Anatomy) -> None:
        """Raise `UnsupportedModel` unless the model is a causal one, or an encoder-decoder that says how its decoder
        starts, with a head."""
        if "encoder_decoder" not in body.capabilities:
            body.require("causal", "head", method=self.name)
            return
        body.require("head", method=self.name)
        require_decoder_start(body, self.name)

    def __call__(self, body: Anatomy, batch: Batch) -> Loss:
        """Nats summed over the target's tokens, the sentinels and the end token included.

        Raises:
            UnsupportedModel: see `check`; or the model's attention cannot be changed.
            ConfigError: input and target together are longer than the model's positions.
        """
        self.check(body)
        labels, two = batch["labels"], "encoder_decoder" in body.capabilities
        hidden = self._decoded(body, batch) if two else self._continued(body, batch)
        total, correct = head_loss(body, hidden, labels)
        return Loss(total, (labels != IGNORED).sum(), correct)

    def _decoded(self, body: Anatomy, batch: Batch) -> Tensor:
        """(B, T_out, D) what an encoder-decoder predicts the target from."""
        target = batch["labels"].masked_fill(batch["labels"] == IGNORED, self.pad_id)
        start = int(body.config.decoder_start_token_id)
        given = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
        return body.hidden(**given, decoder_input_ids=shift_right(target, start))

    def _continued(self, body: Anatomy, batch: Batch) -> Tensor:
        """(B, T_out, D) what a causal model predicts the target from, that follows the input without a gap."""
        joined, prefix_B = follow(batch["input_ids"], batch["attention_mask"], batch["labels"], self.pad_id)
        require_length(body, joined.shape[1], self.name)
        modifiers = [Bidirectional(), SparseMask(prefix_mask(prefix_B, joined.shape[1]))]
        seeing = modify_attention(body, modifiers) if self.config.attention == "prefix" else nullcontext()
        with seeing:
            hidden = body.hidden(input_ids=joined)
        places = prefix_B.unsqueeze(1) - 1 + torch.arange(batch["labels"].shape[1], device=joined.device)
        return hidden.gather(1, places.unsqueeze(2).expand(-1, -1, hidden.shape[2]))


def padded(rows: list[Tensor], filler: int) -> Tensor:
    """(B, longest) int64, each row followed by the filler."""
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=filler)


def follow(input_BT: Tensor, mask_BT: Tensor, labels_BU: Tensor, pad_id: int) -> tuple[Tensor, Tensor]:
    """Each target behind its input: ((B, T + U - 1) tokens, (B,) lengths of the inputs).

    The target's last token is left out, for nothing is predicted from it.
    """
    prefix_B = mask_BT.sum(1)
    target = labels_BU[:, :-1].masked_fill(labels_BU[:, :-1] == IGNORED, pad_id)
    joined = torch.nn.functional.pad(input_BT, (0, target.shape[1]), value=pad_id)
    places = prefix_B.unsqueeze(1) + torch.arange(target.shape[1], device=input_BT.device)
    return joined.scatter(1, places, target), prefix_B


def prefix_mask(prefix_B: Tensor, length: int) -> Tensor:
    """(B, 1, T, T) bool: what lies in the prefix sees all of it, what comes after sees what came before."""
    places = torch.arange(length, device=prefix_B.device)
    inside = places < prefix_B.unsqueeze(1)
    causal = places.unsqueeze(1) >= places
    return (causal | (inside.unsqueeze(2) & inside.unsqueeze(1))).unsqueeze(1)

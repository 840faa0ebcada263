"""ELECTRA: find the tokens that a small generator has replaced; every token teaches.

Source: "ELECTRA: Pre-training Text Encoders as Discriminators Rather Than Generators", ICLR 2020, arXiv:2003.10555,
Sec. 2 and 3; details from the authors' code (google-research/electra).
Implements: k = max(1, round(probability * candidates)) positions of each sequence are picked; `masked` of them become
    the mask token in the generator's input, the others stay. Its loss is the cross-entropy at the picked positions. A
    token drawn from its distribution, without gradient, is written over each picked one in the original text. The
    label of a position is 1 where the token that stands there now is another one than before, so a lucky guess counts
    as original. The discriminator's loss is the binary cross-entropy over all tokens.
        total = generator_weight * mean over sequences of the mean over picked positions + discriminator_weight * mean
    Generator: the encoder's family with a share of its heads, the size of a head and the depth kept; token, position
    and type embeddings are those of the encoder. Its head is a linear map, GELU, LayerNorm, and the token table.
    The discriminator's head is a linear map, GELU, and a linear map to one number: the model's own where it has one,
    else it is thrown away with the generator.
Deviations: picked positions are different ones (`sample: with_replacement` is the authors' code). The generator's mean
    is taken in each sequence first, which differs only where sequences have unequal numbers of ordinary tokens. Where
    embeddings are as wide as the encoder, a map takes them to the generator's width, and the embedding norm of its
    family then acts once more. Tokens are drawn by inverting the cumulated distribution, from numbers that `prepare`
    draws, in place of Gumbel noise.
Left out: the ablations with fully tied networks (`tie: all`), with the two trained one after the other, and with a cap
    on k.
Use when: pre-training or continuing a bidirectional encoder for use with its hidden states. Cost: the generator's
    passes (its share of heads squared, at about 1/4) and its head at the picked positions beside the encoder's; the
    ledger counts them.
Relations: `masked-lm` is the generator's own loss, for the encoder itself. With `generator: uniform` there is no
    network beside the model.
Limits: bidirectional encoders with a token table. A finished model whose head is its own can be scored without its
    generator, on uniform replacements; an encoder that lost its head cannot.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from pomona.anatomy import Anatomy
from pomona.engine.auxiliary import AuxiliaryObjective
from pomona.engine.protocols import Batch, Loss
from pomona.ground.errors import UnsupportedModel
from pomona.objectives.choice import choose, mask_token_of, share_of, special_tokens
from pomona.objectives.config import ObjectiveConfig
from pomona.objectives.documents import block_diagonal_mask, positions_within, require_length
from pomona.objectives.generator import Generator, sample


class ElectraConfig(ObjectiveConfig):
    """Tell which tokens a small generator has replaced."""

    method: Literal["electra"] = "electra"
    heads: ClassVar[tuple[str, ...]] = ("AutoModelForPreTraining", "AutoModel")
    probability: float = Field(default=0.15, gt=0.0, lt=1.0)
    """Share of the tokens that may be replaced (Sec. 3.1; 0.25 for large models)."""
    masked: float = Field(default=0.85, ge=0.0, le=1.0)
    """Share of the picked tokens that the generator sees as a mask; it sees the others as they are."""
    sample: Literal["without", "with_replacement"] = "without"
    """How positions are picked: all different, or drawn independently, so that some coincide."""
    generator: Literal["learned", "unigram", "uniform"] = "learned"
    """Where replacements come from: a trained network, the tokens of the batch, or all ordinary tokens alike."""
    generator_size: float = Field(default=0.25, gt=0.0, le=1.0)
    """Heads of the generator over those of the model; width and feed-forward follow (Sec. 3.2: 1/4 to 1/2)."""
    tie: Literal["embeddings", "none"] = "embeddings"
    """What generator and model share (Sec. 3.2)."""
    temperature: float = Field(default=1.0, ge=0.0)
    """Of the generator's distribution; 0 takes its best guess."""
    disallow_correct: bool = False
    """Never draw the original token."""
    loss_on: Literal["all", "picked"] = "all"
    """Which tokens the discriminator learns from; `picked` is "ELECTRA 15%" of Sec. 3.4."""
    generator_weight: float = Field(default=1.0, ge=0.0)
    """Weight of the generator's loss."""
    discriminator_weight: float = Field(default=50.0, gt=0.0)
    """Weight of the discriminator's loss (Sec. 3.1)."""

    def build(self, tokenizer: Any) -> Electra:
        """The objective for a tokenizer that has a mask token.

        Raises:
            ConfigError: the tokenizer has no mask token.
        """
        return Electra(self, mask_id=mask_token_of(tokenizer, self.method), special_V=special_tokens(tokenizer))

    def wants(self, body: Anatomy) -> bool:
        """A model that tells tokens apart, or the plain encoder."""
        return body.head is None or tells_tokens(body)


class Electra(AuxiliaryObjective):
    """See the card of this module. Fulfils `engine.protocols.Objective`.

    Args:
        config: shares, sizes and weights.
        mask_id: of the mask token.
        special_V: bool, True for tokens that are never picked and never put in the place of others.
    """

    name = "electra"
    is_likelihood = False

    def __init__(self, config: ElectraConfig, *, mask_id: int, special_V: Tensor) -> None:
        super().__init__()
        self.config, self.mask_id, self.special_V = config, mask_id, special_V
        self.ordinary = (~special_V).nonzero().squeeze(1)
        self.generator: Generator | None = None
        self.head: nn.Module | None = None

    def attach(self, body: Anatomy, *, seed: int) -> None:
        """Make generator and head for an encoder; the head only where the model has none of its own.

        Raises:
            UnsupportedModel: the model is no bidirectional encoder, or no smaller one like it can be made.
        """
        body.require("bidirectional", "token_embedding", method=self.name)
        self.companions = []
        self.generator = None
        if self.config.generator == "learned":
            shared = self.config.tie == "embeddings"
            self.generator = Generator(body, ratio=self.config.generator_size, shared=shared)
            rest = [module for name, module in self.generator.named_children() if name != "model"]
            self.companions += [self.generator.body, *rest, nn.ParameterList([self.generator.bias])]
        self.head = None if tells_tokens(body) else discriminator_head(body.hidden_size)
        if self.head is not None:
            self.companions.append(self.head)

    def prepare(self, batch: Batch, generator: torch.Generator) -> Batch:
        """What the generator reads and what decides about replacements, of `tokens` (B, T+1).

        `labels` (B, T) are the original tokens, `input_ids` those with masks, `picked` (bool) where tokens may be
        replaced, `chances` (uniform in [0, 1)) what decides which are drawn, `others` the replacements without a
        network. Where there are `documents`, they are passed on with `position_ids`.
        """
        tokens = batch["tokens"][:, :-1].contiguous()
        candidates = ~self.special_V[tokens]
        wanted = share_of(candidates, self.config.probability)
        if self.config.sample == "without":
            picked = choose(candidates, wanted, generator)
        else:
            picked = choose_again(candidates, wanted, generator)
        shown = torch.rand(tokens.shape, generator=generator) >= self.config.masked
        chances = torch.rand(tokens.shape, generator=generator)
        pool = self.ordinary
        if self.config.generator == "unigram":
            pool = tokens[candidates] if candidates.any() else pool
        made = {
            "input_ids": torch.where(picked & ~shown, self.mask_id, tokens),
            "labels": tokens,
            "picked": picked,
            "chances": chances,
            "others": pool[(chances * len(pool)).long()],
        }
        if "documents" in batch:
            made["documents"] = batch["documents"][:, :-1].contiguous()
            made["position_ids"] = positions_within(made["documents"])
        return made

    def check(self, body: Anatomy) -> None:
        """Raise `UnsupportedModel` unless the model is bidirectional and something tells tokens apart: its own head, or
        one that was attached."""
        body.require("bidirectional", "token_embedding", method=self.name)
        if self.head is None and not tells_tokens(body):
            raise UnsupportedModel(
                f"{self.name} cannot score {type(body.model).__name__}",
                needs="a head that gives one number for each token",
                found="none: the head that the model was trained with is not kept with it",
                do="score it by what it is used for, or by masked-lm where it has that head",
            )

    def __call__(self, body: Anatomy, batch: Batch) -> Loss:
        """Both losses in nats, weighted, so that divided by the number of tokens they are the means of the card.

        Raises:
            UnsupportedModel: the model is not bidirectional, or nothing was attached and it has no head of its own.
            ConfigError: the sequence is longer than the model's positions.
        """
        self.check(body)
        require_length(body, batch["input_ids"].shape[1], self.name)
        inputs: dict[str, Tensor] = {}
        if "documents" in batch:
            inputs["position_ids"] = batch["position_ids"]
            inputs["attention_mask"] = block_diagonal_mask(batch["documents"], body)
        tokens, picked = batch["labels"], batch["picked"]
        # Means over picked positions become sums over tokens: a sequence counts as often as it has tokens.
        share_BT = (picked / picked.sum(1, keepdim=True).clamp_min(1)) * tokens.shape[1]
        replaced, guessed = batch["others"][picked], tokens.new_zeros(()).float()
        total = torch.zeros((), device=tokens.device)
        parts: dict[str, Tensor] = {}
        if self.generator is not None:
            logits = self.generator(picked, input_ids=batch["input_ids"], **inputs)
            original = tokens[picked]
            nats = F.cross_entropy(logits, original, reduction="none") @ share_BT[picked]
            total = total + self.config.generator_weight * nats
            barred = original if self.config.disallow_correct else None
            replaced = sample(logits, batch["chances"][picked], temperature=self.config.temperature, barred_P=barred)
            guessed = (logits.argmax(1) == original).float() @ share_BT[picked]
            parts |= {"generator": nats.detach(), "generator_accuracy": guessed}
        corrupted = tokens.masked_scatter(picked, replaced)
        is_replaced = corrupted != tokens
        scores = self.scores(body, body.hidden(input_ids=corrupted, **inputs))
        nats_BT = F.binary_cross_entropy_with_logits(scores, is_replaced.float(), reduction="none")
        nats = (nats_BT * (share_BT if self.config.loss_on == "picked" else 1.0)).sum()
        total = total + self.config.discriminator_weight * nats
        parts |= {"discriminator": nats.detach(), "replaced": is_replaced.sum().float()}
        return Loss(total, tokens.numel(), ((scores > 0) == is_replaced).sum(), parts)

    def scores(self, body: Anatomy, hidden_BTD: Tensor) -> Tensor:
        """(B, T) float32 log-odds that a token was replaced."""
        logits = body.logits(hidden_BTD) if self.head is None else self.head(hidden_BTD)
        return logits.squeeze(-1).float()


def tells_tokens(body: Anatomy) -> bool:
    """Whether a model has a head that gives one number for each token."""
    head = body.head if "classifier" in body.capabilities else None
    return head is not None and body.pool == "tokens" and head.shape[0] == 1


def discriminator_head(hidden_size: int) -> nn.Module:
    """The head of Sec. 3.1 of the authors' code, for a model that has none."""
    return nn.Sequential(nn.Linear(hidden_size, hidden_size), nn.GELU(), nn.Linear(hidden_size, 1))


def choose_again(candidates_BT: Tensor, wanted_B: Tensor, generator: torch.Generator) -> Tensor:
    """(B, T) bool: so many draws among each row's candidates, each from all of them; equal ones collapse."""
    draws = torch.rand(candidates_BT.shape, generator=generator)
    counts = candidates_BT.sum(1, keepdim=True)
    numbers = (draws * counts).long()  # of a candidate in its row
    numbers = torch.where(torch.arange(draws.shape[1]) < wanted_B.unsqueeze(1), numbers, counts)
    drawn = torch.zeros(counts.shape[0], draws.shape[1] + 1, dtype=torch.bool).scatter_(1, numbers, True)
    number = (candidates_BT.long().cumsum(1) - 1).clamp_min(0)
    return candidates_BT & drawn.gather(1, number)

"""Mask-enhanced autoregressive prediction: next-token prediction with a few tokens of the input hidden.

Source: "Mask-Enhanced Autoregressive Prediction: Pay Less Attention to Learn More", ICML 2025, arXiv:2502.07490,
Sec. 3; details from the authors' code (scitix/MEAP).
Implements: of the L input tokens n = max(1, int(L * ratio)), drawn from all but the last, are overwritten by the mask
    token. The labels stay those of next-token prediction, also where the label is hidden in the input, and all count.
    Attention stays causal, nothing else changes. `positions: shared` hides the same places in every row, as the
    authors' code does.
Deviations: special tokens are not hidden unless `hide_special` says so (the authors' code hides anything). Shared
    places are drawn anew at every step, where the authors' code goes round among 51 seeds.
Left out: the form for fine-tuning, which adds a masked copy of each long answer: it belongs to training on pairs of
    prompt and answer, which no stage does yet.
Use when: pre-training or continuing a causal model that is to find things in its context. Cost: that of `next-token`.
Relations: `next-token` at ratio 0. `masked-lm` predicts the hidden tokens alone, from both sides.
Limits: the vocabulary needs a mask token, which text never contains; the model is scored by `next-token`, without
    masks, and the row of the mask token is not used any more after training.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from pomona.engine.protocols import Batch
from pomona.objectives.causal import Causal, shifted
from pomona.objectives.choice import choose, mask_token_of, ranks, special_tokens
from pomona.objectives.config import ObjectiveConfig


class MeapConfig(ObjectiveConfig):
    """Predict each token from those before it, some of which are hidden."""

    method: Literal["meap"] = "meap"
    scored_as: ClassVar[str] = "next-token"
    ratio: float = Field(default=0.15, ge=0.0, lt=1.0)
    """Share of the input tokens that are hidden (Sec. 4: 5 to 20 % were tried, 15 % is the default)."""
    positions: Literal["each", "shared"] = "each"
    """`each`: every sequence hides places of its own. `shared`: all sequences of a batch hide the same."""
    hide_special: bool = False
    """Hide tokens such as the end of a text too."""

    def build(self, tokenizer: Any) -> Meap:
        """The objective for a tokenizer that has a mask token.

        Raises:
            ConfigError: the tokenizer has no mask token.
        """
        mask_id, special = mask_token_of(tokenizer, self.method), special_tokens(tokenizer)
        return Meap(self, mask_id=mask_id, kept_V=torch.zeros_like(special) if self.hide_special else special)


class Meap(Causal):
    """See the card of this module.

    Args:
        config: share and choice of the hidden tokens.
        mask_id: of the mask token.
        kept_V: bool, True for tokens that are never hidden.
    """

    name = "meap"
    is_likelihood = False

    def __init__(self, config: MeapConfig, *, mask_id: int, kept_V: Tensor) -> None:
        self.config, self.mask_id, self.kept_V = config, mask_id, kept_V

    def prepare(self, batch: Batch, generator: torch.Generator | None = None) -> Batch:
        """As for next-token prediction, with some of `input_ids` hidden."""
        made = shifted(batch)
        inputs = made["input_ids"]
        candidates = ~self.kept_V[inputs]
        candidates[:, -1] = False  # what follows it is predicted from it alone
        count = hidden_count(inputs.shape[1], self.config.ratio)
        if self.config.positions == "shared":
            places = ranks(torch.rand(1, inputs.shape[1] - 1, generator=generator)) < count
            chosen = torch.nn.functional.pad(places, (0, 1)) & candidates
        else:
            chosen = choose(candidates, torch.full((inputs.shape[0],), count), generator)
        made["input_ids"] = inputs.masked_fill(chosen, self.mask_id)
        return made


def hidden_count(length: int, ratio: float) -> int:
    """n = max(1, int(length * ratio)); 0 at ratio 0.

    Example:
        >>> hidden_count(128, 0.15), hidden_count(4, 0.15), hidden_count(128, 0.0)
        (19, 1, 0)
    """
    return max(1, int(length * ratio)) if ratio else 0

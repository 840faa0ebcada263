"""Next-token prediction: the likelihood of text under a causal model.

Source: "Improving Language Understanding by Generative Pre-Training", 2018, Eq. 1.
Implements: sum over positions i of -log p(u_{i+1} | u_1 ... u_i), in nats.
Deviations: none. Where the stream marks documents, each is modelled on its own: positions start anew, attention stays
    within the document, and the first token of a document, of which nothing is known, is not counted.
Use when: pre-training or continuing a causal language model. Cost: one forward and backward pass.
Relations: `span-corruption` for encoder-decoders, `masked-lm` for bidirectional encoders.
Limits: causal models with a head; flash kernels cannot keep packed documents apart and are refused with them.
"""

from __future__ import annotations

from typing import Any, Literal

from pomona.objectives.causal import Causal
from pomona.objectives.config import ObjectiveConfig


class NextTokenConfig(ObjectiveConfig):
    """Predict each token from those before it."""

    method: Literal["next-token"] = "next-token"

    def build(self, tokenizer: Any = None) -> NextToken:
        """The objective; a tokenizer is not needed."""
        return NextToken()


class NextToken(Causal):
    """See the card of this module."""

    name = "next-token"

"""Classification of texts: its loss for the training loop, and what a classifier scores on held-out examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

from pomona.anatomy import Anatomy
from pomona.engine import Batch, Loss
from pomona.engine.evaluate import autocast
from pomona.ground.errors import DataError, UnsupportedModel


class Classify:
    """Cross-entropy of the right label, summed over the texts. Fulfils `engine.protocols.Objective`.

    A target is a text; `labels` are (B,).
    """

    name = "classify"
    is_likelihood = False

    def check(self, body: Anatomy) -> None:
        """Raise `UnsupportedModel` unless the model is transformers' classifier of its family, and one stack."""
        config = body.model.config
        wanted = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING.get(type(config), None)
        if wanted is None or not isinstance(body.model, wanted):
            raise UnsupportedModel(
                f"{type(body.model).__name__} does not classify texts",
                needs=f"a {wanted.__name__}" if wanted else f"a family with a classifier; {config.model_type} has none",
                found=type(body.model).__name__,
                do="make one of its weights with tasks.classifier_for(folder, labels)" if wanted else None,
            )
        if len(body.stacks) > 1:
            raise UnsupportedModel(
                f"{type(body.model).__name__} is not used as a classifier here",
                needs="an encoder or a decoder",
                found="both",
                do="choose a model with one stack",
            )

    def prepare(self, batch: Batch, generator: torch.Generator | None = None) -> Batch:
        """The batch as it is: nothing in it is random."""
        return batch

    def inputs(self, body: Anatomy, batch: Batch) -> Batch:
        """What the model is given of a batch."""
        return {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}

    def logits(self, body: Anatomy, batch: Batch) -> Tensor:
        """(B, labels) float32, by the model's own forward."""
        return logits_of(body, batch)

    def __call__(self, body: Anatomy, batch: Batch) -> Loss:
        """Nats summed over the texts, and how many of them get their label."""
        logits = logits_of(body, batch)
        total = F.cross_entropy(logits, batch["labels"], reduction="sum")
        return Loss(total, batch["labels"].numel(), (logits.argmax(-1) == batch["labels"]).sum())


def logits_of(body: Anatomy, batch: Batch) -> Tensor:
    """(B, labels) float32, by the model's own forward."""
    inputs: dict[str, Any] = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    if body.stacks[-1].causal:
        inputs["use_cache"] = False
    output: Tensor = body.model(**inputs).logits
    return output.float()


@dataclass(frozen=True)
class Scores:
    """What a classifier scores on held-out examples.

    Attributes:
        accuracy: share of texts that get their label, in [0, 1].
        macro_f1: mean over the labels, each counting alike, of 2 TP / (2 TP + FP + FN); 0 for a label that is
            neither there nor predicted.
        nats: mean -log p of the right label.
        examples: how many were scored.
    """

    accuracy: float
    macro_f1: float
    nats: float
    examples: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@torch.no_grad()
def score(body: Anatomy, batches: Sequence[Batch], *, dtype: torch.dtype | None = None) -> Scores:
    """Score a classifier; its mode (train or eval) is restored afterwards.

    Args:
        batches: from `held_out_batches`.
        dtype: bfloat16 to score as in training; None to score in the weights' own precision.

    Raises:
        DataError: there is no example.
    """
    model = body.model
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    truth, guesses, nats = [], [], 0.0
    try:
        for batch in batches:
            moved = {name: tensor.to(device) for name, tensor in batch.items()}
            with autocast(device, dtype):
                logits = logits_of(body, moved)
            nats += float(F.cross_entropy(logits, moved["labels"], reduction="sum"))
            truth.append(moved["labels"].cpu())
            guesses.append(logits.argmax(-1).cpu())
    finally:
        model.train(was_training)
    if not truth:
        raise DataError("nothing to score", found="no held-out example")
    right, guessed = torch.cat(truth), torch.cat(guesses)
    accuracy = float((right == guessed).double().mean())
    return Scores(accuracy, macro_f1(right, guessed, model.config.num_labels), nats / len(right), len(right))


def macro_f1(right_N: Tensor, guessed_N: Tensor, labels: int) -> float:
    """Mean over `labels` classes of 2 TP / (2 TP + FP + FN), int64 in [0, labels); 0 where that is 0 / 0."""
    hits = torch.bincount(right_N[right_N == guessed_N], minlength=labels).double()
    both = (torch.bincount(right_N, minlength=labels) + torch.bincount(guessed_N, minlength=labels)).double()
    return float((2 * hits / both.clamp_min(1)).mean())

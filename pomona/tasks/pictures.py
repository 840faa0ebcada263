"""Classification of pictures: transformers' own class made of any encoder of images, its loss, its scores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING, PretrainedConfig, PreTrainedModel

from pomona import anatomy
from pomona.anatomy import Anatomy
from pomona.anatomy.architecture import build, sized
from pomona.engine import Batch, Loss
from pomona.engine.evaluate import evaluate
from pomona.ground.errors import UnsupportedModel
from pomona.tasks.classifier import described
from pomona.tasks.classify import Classify, Scores, macro_f1

TRAINED_APART = frozenset({"pooler", "mask_token"})
"""Parts of an encoder that its classifier does without."""


def picture_classifier_for(folder: Path, labels: Sequence[str], *, seed: int = 0) -> PreTrainedModel:
    """The encoder of a folder with a new head for some labels, float32, ready for training.

    Where the folder holds a classifier with the same labels already, its head is kept.

    Args:
        labels: in the order of the outputs.
        seed: of the new head.

    Raises:
        UnsupportedModel: transformers has no classifier of pictures for this family.
        DataError, UnsafeFile, DamagedArtefact: as of `anatomy.load`.
    """
    base = anatomy.load(folder)
    found, config = class_for(base.config), _described(base.config, labels)
    same = type(base) is found and base.config.id2label == config.id2label
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = sized(found)(config)
    model.__class__ = found
    own = set(model.base_model.state_dict())
    kept = {
        name: value
        for name, value in base.base_model.state_dict().items()
        if name in own or TRAINED_APART.isdisjoint(name.split("."))
    }
    if absent := sorted(kept.keys() - own):
        raise UnsupportedModel(
            f"the weights of {type(base).__name__} do not fit {found.__name__}",
            found=f"no place for {', '.join(absent[:3])}",
        )
    model.base_model.load_state_dict(kept, strict=False)
    if same:
        model.load_state_dict(base.state_dict())
    return model.train()


def picture_shape_of(base: PreTrainedModel, labels: Sequence[str]) -> PreTrainedModel:
    """What `picture_classifier_for` makes of a model, without weights, on the meta device."""
    return build(class_for(base.config), _described(base.config, labels))


def class_for(config: PretrainedConfig) -> type[PreTrainedModel]:
    """transformers' classifier of pictures for a family; raises `UnsupportedModel` where it has none."""
    found: type[PreTrainedModel] | None = MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING.get(type(config), None)
    if found is None:
        raise UnsupportedModel(
            f"{config.model_type} cannot classify pictures",
            needs="a family for which transformers has a ForImageClassification class",
            found="none",
            do="choose another model",
        )
    return found


def _described(config: PretrainedConfig, labels: Sequence[str]) -> PretrainedConfig:
    return described(config, labels, getattr(config, "pad_token_id", None))


class ClassifyPictures(Classify):
    """Cross-entropy of the right label, summed over the pictures. Fulfils `engine.protocols.Objective`.

    Batches hold `pixel_values` (B, channels, height, width) and `classes` (B,); a target is a picture.
    """

    name = "classify-pictures"

    def check(self, body: Anatomy) -> None:
        """Raise `UnsupportedModel` unless the model is transformers' classifier of pictures of its family."""
        wanted = class_for(body.model.config)
        if not isinstance(body.model, wanted):
            raise UnsupportedModel(
                f"{type(body.model).__name__} does not classify pictures",
                needs=f"a {wanted.__name__}",
                found=type(body.model).__name__,
                do="make one of its weights with tasks.pictures.picture_classifier_for(folder, labels)",
            )

    def prepare(self, batch: Batch, generator: torch.Generator | None = None) -> Batch:
        """The pictures and the numbers of their labels."""
        return {"pixel_values": batch["pixel_values"], "labels": batch["classes"]}

    def inputs(self, body: Anatomy, batch: Batch) -> Batch:
        """What the model is given of a batch."""
        return {"pixel_values": batch["pixel_values"]}

    def logits(self, body: Anatomy, batch: Batch) -> Tensor:
        """(B, labels) float32, by the model's own forward."""
        output: Tensor = body.model(pixel_values=batch["pixel_values"]).logits
        return output.float()

    def __call__(self, body: Anatomy, batch: Batch) -> Loss:
        """Nats summed over the pictures, and how many of them get their label."""
        logits, labels = self.logits(body, batch), batch["labels"]
        return Loss(
            F.cross_entropy(logits, labels, reduction="sum"), labels.numel(), (logits.argmax(-1) == labels).sum()
        )


class _Answers(ClassifyPictures):
    """The same, and it remembers what was asked and answered."""

    def __init__(self) -> None:
        self.right: list[Tensor] = []
        self.guessed: list[Tensor] = []

    def logits(self, body: Anatomy, batch: Batch) -> Tensor:
        logits = super().logits(body, batch)
        self.right.append(batch["labels"].cpu())
        self.guessed.append(logits.argmax(-1).cpu())
        return logits


def score_pictures(body: Anatomy, batches: Sequence[Batch], *, dtype: torch.dtype | None = None) -> Scores:
    """Score a classifier of pictures; its mode (train or eval) is restored afterwards.

    Args:
        batches: with `classes`, as of `data.ImageBatches`.
        dtype: bfloat16 to score as in training; None to score in the weights' own precision.

    Raises:
        DataError: there is no picture.
    """
    answers = _Answers()
    quality = evaluate(body, answers, batches, dtype=dtype)
    f1 = macro_f1(torch.cat(answers.right), torch.cat(answers.guessed), body.model.config.num_labels)
    assert quality.accuracy is not None
    return Scores(quality.accuracy, f1, quality.nats_per_token, quality.tokens)

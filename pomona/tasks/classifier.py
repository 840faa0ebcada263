"""A classifier from any model folder: transformers' own class, so that what is exported is an ordinary folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, PreTrainedModel

from pomona import anatomy
from pomona.anatomy.architecture import build, sized
from pomona.ground.errors import ConfigError, UnsupportedModel

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase


def classifier_for(
    folder: Path,
    labels: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    *,
    seed: int = 0,
    on_meta_device: bool = False,
) -> PreTrainedModel:
    """The model of a folder with a new head for some labels, float32, ready for training.

    Where the folder holds a classifier with the same labels already, its head is kept.

    Args:
        folder: of a model with any head or none, see `anatomy.load`.
        labels: in the order of the outputs.
        tokenizer: whose padding token the model is told (`ready_tokenizer`).
        seed: of the new head.
        on_meta_device: shapes only, for plans.

    Raises:
        UnsupportedModel: transformers has no classifier for this family.
        DataError, UnsafeFile, DamagedArtefact: as of `anatomy.load`.
    """
    if on_meta_device:
        return shape_of(anatomy.shadow(folder), labels)
    return from_base(anatomy.load(folder), labels, tokenizer, seed=seed)


def from_base(
    base: PreTrainedModel, labels: Sequence[str], tokenizer: PreTrainedTokenizerBase, *, seed: int = 0
) -> PreTrainedModel:
    """`classifier_for` a model at hand, whose weights are copied."""
    found = classifier_class(base.config)
    config = described(base.config, labels, tokenizer.pad_token_id)
    same = type(base) is found and base.config.id2label == config.id2label
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = sized(found)(config)
    model.__class__ = found
    prefix = f"{model.base_model_prefix}."
    bare = {
        name.removeprefix(prefix): value
        for name, value in base.state_dict().items()
        if base.base_model is base or name.startswith(prefix)
    }
    own = model.base_model.state_dict()
    if absent := sorted(bare.keys() - own.keys()):
        raise UnsupportedModel(
            f"the weights of {type(base).__name__} do not fit {found.__name__}",
            found=f"no place for {', '.join(absent[:3])}",
        )
    model.base_model.load_state_dict(bare, strict=False)  # a pooler may be new
    if same:
        model.load_state_dict(base.state_dict())
    return model.train()


def classifier_class(config: PretrainedConfig) -> type[PreTrainedModel]:
    """transformers' classifier of texts for a family; raises `UnsupportedModel` where it has none."""
    found: type[PreTrainedModel] | None = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING.get(type(config), None)
    if found is None:
        raise UnsupportedModel(
            f"{config.model_type} cannot classify texts",
            needs="a family for which transformers has a ForSequenceClassification class",
            found="none",
            do="choose another model",
        )
    return found


def shape_of(base: PreTrainedModel, labels: Sequence[str]) -> PreTrainedModel:
    """`from_base` without weights, on the meta device."""
    return build(classifier_class(base.config), described(base.config, labels, base.config.pad_token_id))


def head_of(model: PreTrainedModel) -> list[nn.Parameter]:
    """The parameters of a classifier that are the task's own: all outside of its base model, and its pooler."""
    pooler = getattr(model.base_model, "pooler", None)
    new = {id(parameter) for parameter in pooler.parameters()} if isinstance(pooler, nn.Module) else set()
    base = {id(parameter) for parameter in model.base_model.parameters()} - new
    base |= {id(parameter) for parameter in anatomy.guests_of(model).values()}
    return [parameter for parameter in model.parameters() if id(parameter) not in base]


def described(config: PretrainedConfig, labels: Sequence[str], pad_token_id: int | None) -> PretrainedConfig:
    """A copy of a configuration for these labels and this padding token."""
    values: dict[str, Any] = {
        "id2label": dict(enumerate(labels)),
        "label2id": {label: index for index, label in enumerate(labels)},
        "pad_token_id": pad_token_id,
        "problem_type": "single_label_classification",
    }
    kept = {name: value for name, value in config.to_dict().items() if name != "quantization_config"}  # unpacked by now
    made: PretrainedConfig = type(config).from_dict({**kept, **values})
    made._attn_implementation = config._attn_implementation
    return made


def ready_tokenizer(
    tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel | None = None
) -> PreTrainedTokenizerBase:
    """The tokenizer of a classifier, changed in place and saved with it, so that others use it the same way.

    It has a padding token. Where the model is an encoder, whose head reads the first position, texts begin with a
    special token.

    Raises:
        ConfigError: there is no token to pad with.
    """
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token is None:
            raise ConfigError("the tokenizer has neither a padding token nor an end token", do="give it a pad_token")
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    first = tokenizer.cls_token or tokenizer.bos_token
    reads_first = model is not None and "causal" not in anatomy.of(model).capabilities
    if reads_first and first is not None and not tokenizer("").get("input_ids"):
        from tokenizers.processors import TemplateProcessing

        backend: Any = tokenizer.backend_tokenizer
        number = tokenizer.convert_tokens_to_ids(first)
        backend.post_processor = TemplateProcessing(
            single=f"{first} $A", pair=f"{first} $A {first} $B", special_tokens=[(first, number)]
        )
    return tokenizer

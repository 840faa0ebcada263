"""Models as folders: made from a description, loaded without running foreign code, saved in Hugging Face's form."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel

from pomona import anatomy
from pomona.ground.config import MethodConfig
from pomona.ground.errors import ConfigError, DataError, PomonaError, did_you_mean
from pomona.ground.quiet import without_bars
from pomona.stages.places import place_of

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase
    from transformers.image_processing_utils import BaseImageProcessor

    from pomona.stages.base import View


SPECIAL_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")


def config_from(description: Mapping[str, Any], vocab_size: int | None = None, **defaults: Any) -> PretrainedConfig:
    """A model's configuration from `{shape: llama, hidden_size: 256, ...}`: any field that transformers knows.

    Args:
        description: `shape` (or `model_type`) and fields of that configuration.
        vocab_size: where the description has none.
        defaults: further fields, where the shape has them and the description does not say.

    Raises:
        ConfigError: the shape or a field is unknown, or transformers refuses a value.
    """
    fields = dict(description)
    shape = fields.pop("shape", None) or fields.pop("model_type", None)
    if not isinstance(shape, str):
        raise ConfigError("a model needs a shape", where="shape", do="for example shape: llama")
    if shape not in transformers.CONFIG_MAPPING:
        near = did_you_mean(shape, transformers.CONFIG_MAPPING)
        raise ConfigError(f"unknown shape {shape!r}", where="shape", do=near)
    default = AutoConfig.for_model(shape)
    known = {*default.to_dict(), *default.attribute_map}
    for name in fields:
        if name not in known:
            raise ConfigError(f"{shape} has no field {name!r}", where=name, do=did_you_mean(name, known))
    if vocab_size is not None:
        fields.setdefault("vocab_size", vocab_size)
    fields = {**{name: value for name, value in defaults.items() if name in known}, **fields}
    if isinstance(vocabulary := fields.get("vocab_size"), int):
        for name, token in default.to_dict().items():  # those of the published model may lie outside this vocabulary
            if name.endswith("_token_id") and isinstance(token, int) and token >= vocabulary:
                fields.setdefault(name, None)
    try:
        return AutoConfig.for_model(shape, **fields)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"not a valid {shape}", found=str(error).strip()) from error


def create(
    config: PretrainedConfig, objective: MethodConfig, *, seed: int = 0, on_meta_device: bool = False
) -> PreTrainedModel:
    """A new model, initialised as transformers does it, from `seed` alone; float32.

    Args:
        on_meta_device: shapes only, without memory: for plans.
    """
    head = head_for(config, objective)
    with torch.random.fork_rng(), torch.device("meta") if on_meta_device else nullcontext():
        torch.manual_seed(seed)
        model: PreTrainedModel = head.from_config(config, dtype=torch.float32)
    return model


def head_for(config: PretrainedConfig, objective: MethodConfig) -> Any:
    """The class of transformers that makes a model of this configuration with the head that an objective trains.

    Raises:
        ConfigError: transformers has none.
    """
    from pomona.objectives.config import ObjectiveConfig

    asked = objective if isinstance(objective, ObjectiveConfig) else ObjectiveConfig(method=objective.method)
    classes = [getattr(transformers, name) for name in asked.heads]
    known = [head for head in classes if type(config) in head._model_mapping]
    for head in known:
        if len(known) == 1:
            return head
        with torch.device("meta"):
            made = head.from_config(deepcopy(config), dtype=torch.float32)
        if asked.wants(anatomy.of(made)):
            return head
    raise ConfigError(
        f"{config.model_type} cannot be trained with {objective.method}",
        needs=f"a model that {' or '.join(asked.heads)} makes",
        do="choose another objective or another shape",
    )


def expected(view: View, need: str) -> PreTrainedModel | None:
    """The model of an input on the meta device, made or not; None (and a problem) where it cannot be known."""
    return next(iter(all_expected(view, need)), None)


def all_expected(view: View, need: str) -> list[PreTrainedModel | None]:
    """The same for an input that is several models."""
    found: list[PreTrainedModel | None] = []
    for forecast in view.all(need):
        model, folder = forecast.known.get("model"), forecast.known.get("folder")
        if model is None and folder is not None:
            try:
                model = anatomy.shadow(folder)
            except PomonaError as error:
                view.problem(need, error.what, error.do or error.found or "")
        found.append(model)
    return found


def rehearsed(view: View, model: PreTrainedModel, apply_: Callable[[Any], object]) -> PreTrainedModel | None:
    """A model on the meta device as a method will leave it; None, and a problem, where the method refuses it."""
    edited = copy.deepcopy(model)
    try:
        apply_(edited)
    except PomonaError as error:
        view.problem("method", str(error))
        return None
    return edited


def load(folder: Path) -> PreTrainedModel:
    """Load a model folder in float32, ready for training; packed weights are unpacked.

    Raises:
        DataError, UnsafeFile, UnsupportedModel: it holds no model, could run code, or is compressed in another way.
    """
    return anatomy.load(folder).train()


def load_tokenizer(name: str | Path) -> PreTrainedTokenizerBase:
    """A tokenizer from a folder, a Python package or the hub; remote code is never run."""
    try:
        folder = str(place_of(str(name)))
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise DataError(f"there is no tokenizer {str(name)!r}", found=str(error).strip().partition("\n")[0]) from error
    return tokenizer


def save(model: PreTrainedModel, preparer: PreTrainedTokenizerBase | BaseImageProcessor, folder: Path) -> None:
    """Write a folder that transformers loads without pomona, unless its sizes need `anatomy.load`.

    Args:
        preparer: what makes the model's inputs.
    """
    with without_bars():
        model.save_pretrained(folder)
    preparer.save_pretrained(folder)


def adopt_special_tokens(config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    """Let the configuration name the tokenizer's special tokens. A decoder starts from the padding token, as T5's."""
    for name in SPECIAL_TOKENS:
        setattr(config, name, getattr(tokenizer, name))
    if config.is_encoder_decoder:
        config.decoder_start_token_id = tokenizer.pad_token_id
        if getattr(config, "forced_eos_token_id", None) is not None:
            config.forced_eos_token_id = tokenizer.eos_token_id

"""From a name to a model that can be looked at: on the meta device for its parts, tiny and random for experiments.

A name is a local folder, a model on the Hugging Face hub, a model type ("llama"), or a row of the table of tiny models
("t5-gated"). Only the configuration is read, never weights, and never code.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, PretrainedConfig

from pomona.anatomy.declaration import Fields
from pomona.anatomy.registry import shape_of
from pomona.anatomy.tiny import SIZES, TINY, Tiny, tiny_model
from pomona.ground.errors import ConfigError, DataError, UnsafeFile, UnsupportedModel, did_you_mean
from pomona.ground.files import read_json

HEADS = ("AutoModelForCausalLM", "AutoModelForMaskedLM", "AutoModelForSeq2SeqLM", "AutoModel")
"""The classes that are tried, in order, where a configuration does not name its own."""
NEEDED = ("vocab_size", "pad_token_id")
"""What some types have no default for, though their models need it."""


def config_of(name: str) -> PretrainedConfig:
    """The configuration of a folder, a hub model, or the default one of a model type.

    Raises:
        DataError: there is no such model.
        UnsafeFile: it brings its own code.
        ConfigError: neither a folder, nor a model on the hub, nor a known model type.
    """
    folder = Path(name)
    if folder.is_dir():
        file = folder / "config.json"
        if not file.is_file():
            raise DataError(f"{folder} is not a model", needs="config.json", found="none")
        values = read_json(file)
        if "auto_map" in values:
            raise UnsafeFile(f"{folder} brings its own code", found="auto_map", do="use a model that transformers has")
        if values.get("model_type") not in transformers.CONFIG_MAPPING:
            raise DataError(
                f"transformers does not know this model_type: {values.get('model_type')!r}", where=str(file)
            )
        return _read(str(folder), local_files_only=True)
    if name in TINY:
        row, config = TINY[name], AutoConfig.for_model(TINY[name].model_type)
        needed = {key: row.settings[key] for key in NEEDED if key in row.settings and getattr(config, key, 0) is None}
        return AutoConfig.for_model(row.model_type, **needed) if needed else config
    if name in transformers.CONFIG_MAPPING:
        return AutoConfig.for_model(name)
    if "/" in name and not name.startswith((".", "/")):
        return _read(name)
    raise ConfigError(
        f"there is no model {name!r}",
        needs="a local folder, a model on the hub (owner/name) or a model type",
        do=did_you_mean(name, {*TINY, *transformers.CONFIG_MAPPING}),
    )


def _read(name: str, **options: Any) -> PretrainedConfig:
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(name, trust_remote_code=False, **options)
    except (OSError, ValueError) as error:
        raise DataError(
            f"the configuration of {name!r} cannot be read", found=str(error).strip().partition("\n")[0]
        ) from error
    return config


def meta_model(config: PretrainedConfig) -> Any:
    """The model of a configuration on the meta device: every part and size, no memory."""
    with torch.device("meta"):
        model = class_of(config)._from_config(config).eval()
    return model.to("meta")  # some parameters are made by a constructor that knows no device


def tiny_like(config: PretrainedConfig) -> Any:
    """A tiny random model of the same type and options (activations, biases, ties, ...) with other sizes.

    Raises:
        UnsupportedModel: transformers makes no model of these options at small sizes.
    """
    row = _row(config)
    small = {**(row.settings if row else SIZES)}
    shape = shape_of(config.model_type)
    fields = Fields() if shape is None else shape.fields
    if "num_attention_heads" in small:
        heads, kv_heads = (getattr(config, name, None) for name in (fields.heads, fields.kv_heads))
        if kv_heads is not None and hasattr(config, "num_key_value_heads"):
            small["num_key_value_heads"] = small["num_attention_heads"] // (1 if kv_heads == heads else 2)
    kinds = getattr(config, "layer_types", None)
    if kinds and "num_hidden_layers" in small:  # each kind of block that there is
        small["layer_types"] = [*dict.fromkeys(kinds), *kinds][: small["num_hidden_layers"]]
    options = {
        name: value
        for name, value in config.to_dict().items()
        if isinstance(value, bool | str | float) and name not in ("model_type", "dtype")
    }
    try:
        reduced = AutoConfig.for_model(config.model_type, **{**small, **options})
        reduced.architectures = config.architectures
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return class_of(reduced)._from_config(reduced).eval()
    except (ValueError, TypeError, RuntimeError, KeyError) as error:
        raise UnsupportedModel(
            f"no tiny model of type {config.model_type!r} with these options can be made",
            found=str(error).strip().partition("\n")[0],
            do="call anatomy.verify on a small model of this class",
        ) from error


def specimen(name: str) -> Any:
    """The tiny random model for a name: a row of the table as it is, else one with the options of its configuration."""
    return tiny_model(name) if name in TINY else tiny_like(config_of(name))


def class_of(config: PretrainedConfig) -> Any:
    """The transformers class of a configuration's models."""
    for name in config.architectures or ():
        if (found := getattr(transformers, name, None)) is not None:
            return found
    row = _row(config)
    for name in (row.auto, *HEADS) if row else HEADS:
        mapping = getattr(transformers, name)._model_mapping
        if type(config) in mapping:
            found = mapping[type(config)]
            return found[0] if isinstance(found, tuple) else found
    raise UnsupportedModel(
        f"transformers makes no model of type {config.model_type!r} by itself",
        do="load it with its own class and call pomona.anatomy.of",
    )


def _row(config: PretrainedConfig) -> Tiny | None:
    """The first tiny model of this type."""
    return next((row for row in TINY.values() if row.model_type == config.model_type), None)

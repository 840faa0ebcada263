"""Loading a model folder for generation: dense safetensors, or the compressed-tensors pack-quantized format.

Packed weights are read as they lie in the files and stay packed; transformers loads the rest. Nothing that could run
code is read: no pickles, no modeling code from the folder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.quantizers import HfQuantizer, register_quantization_config, register_quantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from pomona import anatomy
from pomona.anatomy import Anatomy, Weight
from pomona.ground.errors import ConfigError, DamagedArtefact, UnsafeFile, UnsupportedModel
from pomona.ground.weights import refuse_without_weights
from pomona.runtime.packed import PackedLinear, PackedWeight, read_packed, schemes_of

PARTS = ("weight_packed", "weight_scale", "weight_zero_point", "weight_shape", "weight_g_idx")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")
DType = Literal["auto", "float32", "bfloat16"]
_METHOD = "pomona_packed"


@dataclass(eq=False)
class LoadedModel:
    """A causal language model that is ready to compute.

    Args:
        model: the transformers model; its packed layers are `PackedLinear`.
        tokenizer: None when the folder has none.
        skeleton: a model without weights whose modules are the dense ones, for the anatomy; the model itself when
            nothing is packed.
        packed: module path -> packed weight.
        scheme: how the weights are stored, as "bfloat16" or "4-bit, groups of 128".
        notes: remarks for the user.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None
    skeleton: PreTrainedModel
    packed: Mapping[str, PackedWeight]
    scheme: str
    notes: list[str] = field(default_factory=list)

    def body(self) -> Anatomy:
        """The anatomy, with names that `tensor` and `linear_weight` understand."""
        return anatomy.of(self.skeleton)

    def tensor(self, weight: Weight) -> Tensor:
        """The values of a dense weight in canonical orientation."""
        return weight.canonical(self.model.get_parameter(weight.name).detach())

    def linear_weight(self, weight: Weight) -> Tensor | PackedWeight:
        """The values of a linear weight, packed where the folder has it packed."""
        packed = self.packed.get(weight.name.rpartition(".")[0])
        if packed is None or weight.rows is None:
            return self.tensor(weight) if packed is None else packed
        part = weight.rows
        zero = None if packed.zero is None else packed.zero[part]
        return PackedWeight(
            packed.words[part], packed.scale[part], zero, packed.order, packed.group_size, packed.columns
        )

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights as they are held, tied ones once."""
        dense: dict[int, int] = {p.data_ptr(): p.numel() * p.element_size() for p in self.model.parameters()}
        return sum(dense.values()) + sum(weight.nbytes for weight in self.packed.values())


def load_model(folder: Path, dtype: DType = "auto") -> LoadedModel:
    """Load a causal language model.

    Args:
        folder: a Hugging Face folder with safetensors.
        dtype: of dense weights; "auto" keeps what the folder says. float16 is read as float32.
    Raises:
        ConfigError: not a model folder, or a quantization that is not read here.
        DataError: it holds no weights.
        UnsafeFile: only pickled weights, or code in the folder would have to run.
        DamagedArtefact: a weight file cannot be read.
        UnsupportedModel: not a causal language model, or packed tensors that contradict their scheme.
    """
    config_values = _read_config(folder)
    headers = _read_headers(folder)
    packed_names = [name.removesuffix(".weight_packed") for name in headers if name.endswith(".weight_packed")]
    quantization = config_values.get("quantization_config")
    schemes: list[tuple[int, int | None]] = []
    if quantization:
        schemes = schemes_of(quantization, str(folder / "config.json"))
    elif packed_names:
        raise ConfigError(
            f"{folder} holds packed weights, but its config.json does not say how",
            needs="quantization_config in config.json",
            found=f"{packed_names[0]}.weight_packed",
            do="export the model again",
        )
    config = AutoConfig.from_pretrained(folder)
    wanted = _dtype(config, dtype)
    tokenizer = load_tokenizer(folder)
    if not packed_names:
        if quantization:
            raise ConfigError(
                f"{folder} says that it is quantized, but holds no packed weights",
                needs="tensors named ...weight_packed",
                found="none",
                do="export the model again, or remove quantization_config from config.json if it is dense",
            )
        model = _from_pretrained(folder, config, wanted)
        return LoadedModel(model, tokenizer, model, {}, str(wanted).removeprefix("torch."))

    del config.quantization_config
    shells = {
        name: {part: headers[f"{name}.{part}"] for part in PARTS if f"{name}.{part}" in headers}
        for name in packed_names
    }
    model = _from_pretrained(folder, config, wanted, quantization_config=_PackedConfig(shells))
    packed, widened = _unpack_shells(model, schemes, list(shells))
    model.hf_quantizer.remove_quantization_config(model)  # from here on it is an ordinary model with other layers
    skeleton = anatomy.shadow(folder)
    bits = sorted({f"{b}-bit, {f'groups of {g}' if g else 'one group to a row'}" for b, g in schemes})
    notes = []
    if widened:
        notes.append(f"{widened} layers have more than 4 bits: they are decoded to dense weights when loaded")
    return LoadedModel(model, tokenizer, skeleton, packed, "; ".join(bits), notes)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase | None:
    """The folder's tokenizer, or None when it has none."""
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        return None
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    return tokenizer


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        found = "no such folder" if not folder.is_dir() else "no config.json"
        if (folder / "adapter_config.json").is_file():
            found = "an adapter (adapter_config.json) without its model"
        raise ConfigError(
            f"{folder} is not a model folder",
            needs="a folder with config.json and safetensors, as transformers and pomona write it",
            found=found,
            do="give the folder of a model; for an adapter, merge it into its model first",
        )
    try:
        values: Any = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DamagedArtefact(f"{path} is damaged", found=str(error), do="copy or export the model again") from error
    if not isinstance(values, dict) or "model_type" not in values:
        raise ConfigError(
            f"{folder} is not a model folder", where=str(path), needs="the key model_type", found="it is absent"
        )
    if "auto_map" in values and values["model_type"] not in _known_model_types():
        raise UnsafeFile(
            f"{folder} needs code of its own to be loaded",
            where=str(path),
            needs="a model type that transformers knows",
            found=f"auto_map, model_type {values['model_type']!r}",
            do="convert the model to a standard architecture elsewhere",
        )
    return values


def _known_model_types() -> set[str]:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return set(CONFIG_MAPPING.keys())


def _read_headers(folder: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Name -> (shape, dtype) of every tensor in the folder's safetensors; the values are not read."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        refuse_without_weights(folder)
    headers: dict[str, tuple[tuple[int, ...], str]] = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 (not a mapping)
                    part = tensors.get_slice(name)
                    headers[name] = (tuple(part.get_shape()), str(part.get_dtype()))
        except (SafetensorError, OSError) as error:
            raise DamagedArtefact(
                f"{file} is damaged", found=str(error), do="copy or export the model again"
            ) from error
    return headers


def _dtype(config: Any, dtype: DType) -> torch.dtype:
    if dtype != "auto":
        return torch.float32 if dtype == "float32" else torch.bfloat16
    stored = getattr(config, "dtype", None)
    if isinstance(stored, str):
        stored = getattr(torch, stored, None)
    return stored if stored in (torch.float32, torch.bfloat16) else torch.float32


def _from_pretrained(folder: Path, config: Any, dtype: torch.dtype, **options: Any) -> PreTrainedModel:
    if type(config) not in AutoModelForCausalLM._model_mapping:
        raise UnsupportedModel(
            f"{folder} is not a causal language model",
            needs="a model that transformers loads with AutoModelForCausalLM",
            found=f"model_type {config.model_type!r}",
            do="choose a decoder (Llama, Mistral, Qwen, GPT-2 and the like)",
        )
    model_class = AutoModelForCausalLM._model_mapping[type(config)]
    return anatomy.read_weights(model_class, folder, config, dtype=dtype, **options)


# ---------------------------------------------------------------- packed layers inside transformers' own loading


class _Shell(nn.Module):
    """Holds the tensors of one packed layer while transformers loads them."""

    def __init__(self, parts: Mapping[str, tuple[tuple[int, ...], str]], bias: nn.Parameter | None) -> None:
        super().__init__()
        for name, (shape, kind) in parts.items():
            # Scales are read in float32 whatever the model's dtype: nothing of them is lost.
            dtype = {"I32": torch.int32, "I64": torch.int64}.get(kind, torch.float32)
            self.register_parameter(
                name, nn.Parameter(torch.empty(shape, dtype=dtype, device="meta"), requires_grad=False)
            )
        self.register_parameter("bias", bias)


@register_quantization_config(_METHOD)
class _PackedConfig(QuantizationConfigMixin):  # type: ignore[misc]
    """Which layers are packed: module path -> part -> (shape, dtype)."""

    def __init__(self, shells: Mapping[str, Mapping[str, tuple[tuple[int, ...], str]]] | None = None) -> None:
        self.quant_method = _METHOD
        self.shells = dict(shells or {})


@register_quantizer(_METHOD)
class _PackedQuantizer(HfQuantizer):  # type: ignore[misc]
    """Puts shells in the place of the packed layers before transformers loads the weights."""

    def _process_model_before_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> None:
        for name, parts in self.quantization_config.shells.items():
            parent, _, child = name.rpartition(".")
            try:
                module = model.get_submodule(name)
            except AttributeError:
                module = None
            if not isinstance(module, nn.Linear):
                raise UnsupportedModel(
                    f"the packed weight {name} has no place in {type(model).__name__}",
                    needs="a linear layer of that name",
                    found="none" if module is None else type(module).__name__,
                    do="export the model again, or load it with transformers",
                )
            setattr(model.get_submodule(parent), child, _Shell(parts, module.bias))

    def is_serializable(self) -> bool:
        return False

    @property
    def is_trainable(self) -> bool:
        return False


def _unpack_shells(
    model: PreTrainedModel, schemes: list[tuple[int, int | None]], names: list[str]
) -> tuple[dict[str, PackedWeight], int]:
    """Replace each shell by its layer. Returns the packed weights and how many had to be widened to dense ones."""
    packed: dict[str, PackedWeight] = {}
    widened = 0
    for name in names:
        shell = model.get_submodule(name)
        parts = dict(shell.named_parameters())
        missing = [part for part in ("weight_packed", "weight_scale", "weight_shape") if part not in parts]
        if missing:
            raise DamagedArtefact(
                f"the packed weight {name} is incomplete", found=f"without {', '.join(missing)}", do="export it again"
            )
        rows, columns = (int(size) for size in parts["weight_shape"])
        zero, group_index = parts.get("weight_zero_point"), parts.get("weight_g_idx")
        scale = parts["weight_scale"].detach()
        if bool((scale.to(torch.bfloat16).float() == scale).all()):
            scale = scale.to(torch.bfloat16)  # half of the bytes, the same values
        weight = read_packed(
            name,
            parts["weight_packed"].detach(),
            scale,
            None if zero is None else zero.detach(),
            (rows, columns),
            None if group_index is None else group_index.detach(),
            schemes,
        )
        bias = parts.get("bias")
        parent, _, child = name.rpartition(".")
        layer: nn.Module
        if isinstance(weight, PackedWeight):
            packed[name] = weight
            layer = PackedLinear(weight, None if bias is None else bias.detach())
        else:
            widened += 1
            layer = nn.Linear(columns, rows, bias=False, device="meta")
            layer.weight = nn.Parameter(weight.to(model.dtype), requires_grad=False)
            layer.register_parameter("bias", bias)
        setattr(model.get_submodule(parent), child, layer)
    return packed, widened

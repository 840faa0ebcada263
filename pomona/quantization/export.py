"""Write a quantized model as a folder that plain transformers loads: compressed-tensors, format "pack-quantized".

Source: the compressed-tensors package, compressors/pack_quantized and quantization/quant_config.
The codes of a linear layer are stored as `weight_packed` (see `packing`), with `weight_scale` (O, G) in the model's
dtype, `weight_shape`, and for asymmetric grids `weight_zero_point`, packed along the outputs. Codes are those of the
grid: the format's signed codes with their offset of 2^(bits-1), which it adds before packing.

The format describes `nn.Linear` modules whose columns fall into equal, consecutive groups. A shorter last group becomes
finer equal groups with the same values. What the format cannot describe (transposed or fused storage, as in GPT-2) is
stored dense, with the dequantized values, and listed as such.

Asymmetric grids need two concessions to transformers (as of 5.23, with compressed-tensors 0.20), which cannot load
packed zero points into modules that stay compressed: the config asks for `dequantize`, so that weights are expanded
while they are loaded, and because that path knows one scheme per model, all modules get the same (finest) group size.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from math import gcd
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from pomona.ground.errors import ConfigError, DamagedArtefact
from pomona.ground.files import read_json, storage_errors, write_json
from pomona.quantization.codes import QuantizedWeight
from pomona.quantization.config import GridConfig
from pomona.quantization.packing import pack, packed_words, unpack
from pomona.quantization.report import QuantizationReport, WeightReport

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FORMAT = "pack-quantized"
_PARTS = ("weight_packed", "weight_scale", "weight_shape", "weight_zero_point")


@dataclass(frozen=True)
class Export:
    """What was written.

    Args:
        folder: the model folder.
        packed: names of the modules that are stored as codes.
        dense: why each other quantized parameter is stored dense, by its name.
        bytes: size of the weights on disk.
    """

    folder: Path
    packed: tuple[str, ...]
    dense: Mapping[str, str]
    bytes: int


def check_export(config: GridConfig) -> None:
    """Raise `ConfigError` when the format cannot hold what `config` makes. Computes nothing.

    The format has no place for a column order: GPTQ with `act_order` and groups needs `static_groups`.
    """
    values = config.model_dump()
    if values.get("act_order") and not values.get("static_groups") and config.group_size is not None:
        raise ConfigError(
            "groups that follow the order of activations cannot be exported",
            where="act_order",
            needs="consecutive columns in every group: the format has no column-to-group index",
            do="set static_groups: true, which keeps act_order, or group_size: null",
        )


def save_compressed(model: PreTrainedModel, report: QuantizationReport, folder: str | Path) -> Export:
    """Save a model that was quantized in place, so that `from_pretrained(folder)` gives the same logits.

    Args:
        model: the model after quantization, with the dequantized weights in place.
        report: what the quantization returned.
        folder: where the config and the weights go; created if need be. A tokenizer is saved separately.
    Raises:
        ConfigError: a weight has a column order, which the format cannot hold.
        StorageError: the folder cannot be written.
    """
    folder = Path(folder)
    for weight in report.weights:
        if weight.quantized.group_index is not None:
            raise ConfigError(
                f"{weight.name} has groups that are not consecutive columns",
                where=weight.name,
                needs="consecutive columns in every group: the format has no column-to-group index",
                do="quantize again with static_groups: true, which keeps act_order",
            )
    modules = dict(model.named_modules())
    packed, dense = _choose(report, modules, model)
    state = {name: tensor for name, tensor in model.state_dict().items() if name.removesuffix(".weight") not in packed}
    for path, quantized in packed.items():
        state.update({f"{path}.{part}": tensor for part, tensor in _stored(quantized, modules[path]).items()})
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        model.save_pretrained(folder, state_dict=state)
    if packed:
        config = read_json(folder / "config.json")
        config["quantization_config"] = _quantization_config(packed, modules)
        write_json(folder / "config.json", config)
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    return Export(folder, tuple(packed), dense, size)


def load_compressed(folder: str | Path) -> dict[str, QuantizedWeight]:
    """The quantized weights of a folder in the compressed-tensors format, by module name.

    Raises:
        ConfigError: the folder's model is not quantized, or in another format.
        DamagedArtefact: parts of a weight are missing or do not fit together.
    """
    folder = Path(folder)
    settings = read_json(folder / "config.json").get("quantization_config")
    if not settings or settings.get("format") != FORMAT:
        raise ConfigError(
            f"{folder} does not hold packed weights",
            needs=f"quantization_config with the format {FORMAT!r} in config.json",
            found=str(settings.get("format")) if settings else "no quantization_config",
            do="quantize the model first, or load it with transformers",
        )
    parts: dict[str, dict[str, Tensor]] = defaultdict(dict)
    files = sorted(folder.glob("*.safetensors"))
    for file in files:
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (not a mapping)
                path, _, part = name.rpartition(".")
                if part in _PARTS:
                    parts[path][part] = tensors.get_tensor(name)
    groups = list(settings["config_groups"].values())
    stored = {path: found for path, found in sorted(parts.items()) if "weight_packed" in found}
    return {path: _read(path, found, groups, folder) for path, found in stored.items()}


def _choose(
    report: QuantizationReport, modules: Mapping[str, nn.Module], model: nn.Module
) -> tuple[dict[str, QuantizedWeight], dict[str, str]]:
    """The modules to pack, in groups that the format can express, and why each other parameter stays dense."""
    packed: dict[str, QuantizedWeight] = {}
    dense: dict[str, str] = {}
    for weight in report.weights:
        parameter = model.get_parameter(weight.name)
        names = [name for name, other in model.named_parameters(remove_duplicate=False) if other is parameter]
        reason = _why_dense(weight, [modules[name.rpartition(".")[0]] for name in names])
        for name in names:  # a tied weight is stored under each of its names
            if reason is None:
                packed[name.removesuffix(".weight")] = weight.quantized.with_whole_groups()
            else:
                dense[name] = reason
    if any(not quantized.symmetric for quantized in packed.values()):
        first = next(iter(packed.values()))
        for path, quantized in list(packed.items()):
            if (quantized.bits, quantized.symmetric) != (first.bits, first.symmetric):
                dense[f"{path}.weight"] = "transformers loads one asymmetric scheme per model"
                del packed[path]
        if len({quantized.group_size for quantized in packed.values()}) > 1:
            common = gcd(*(quantized.group_size or quantized.shape[1] for quantized in packed.values()))
            packed = {path: quantized.with_groups_of(common) for path, quantized in packed.items()}
    for path, quantized in list(packed.items()):
        scale_bits = 8 * modules[path].get_parameter("weight").dtype.itemsize
        if quantized.stored_bits(scale_bits) >= quantized.codes.numel() * scale_bits:
            dense[f"{path}.weight"] = f"groups of {quantized.group_size} columns take more space than the weights"
            del packed[path]
    return packed, dense


def _why_dense(weight: WeightReport, owners: list[nn.Module]) -> str | None:
    """Why the format cannot hold a weight, or None when it can."""
    if weight.fused:
        return "one parameter holds several weights"
    if weight.transposed:
        return "stored transposed"
    for owner in owners:
        if not isinstance(owner, nn.Linear):
            return f"held by {type(owner).__name__}, not nn.Linear"
    return None


def _stored(quantized: QuantizedWeight, module: nn.Module) -> dict[str, Tensor]:
    """The tensors of one module in the format."""
    dtype = module.get_parameter("weight").dtype
    stored = {
        "weight_packed": pack(quantized.codes, quantized.bits),
        "weight_scale": quantized.scale.to(dtype).contiguous(),
        "weight_shape": torch.tensor(quantized.shape),
    }
    if not quantized.symmetric:
        stored["weight_zero_point"] = pack(quantized.zero.t().to(torch.uint8), quantized.bits).t().contiguous()
    return stored


def _quantization_config(packed: Mapping[str, QuantizedWeight], modules: Mapping[str, nn.Module]) -> dict[str, Any]:
    """The `quantization_config` of config.json. One scheme per distinct grid; the commonest one targets "Linear"."""
    schemes: dict[tuple[int, int | None, bool], list[str]] = defaultdict(list)
    for path, quantized in packed.items():
        schemes[quantized.bits, quantized.group_size, quantized.symmetric].append(path)
    by_count = sorted(schemes, key=lambda scheme: -len(schemes[scheme]))
    groups = {}
    # a module takes the first group that names it, so the exceptions stand before the rule
    for number, (bits, group_size, symmetric) in enumerate([*by_count[1:], by_count[0]]):
        common = (bits, group_size, symmetric) == by_count[0]
        groups[f"group_{number}"] = {
            "targets": ["Linear"] if common else schemes[bits, group_size, symmetric],
            "format": FORMAT,
            "weights": {
                "num_bits": bits,
                "type": "int",
                "symmetric": symmetric,
                "strategy": "channel" if group_size is None else "group",
                "group_size": group_size,
                "dynamic": False,
            },
            "input_activations": None,
            "output_activations": None,
        }
    linear = [path for path, module in modules.items() if isinstance(module, nn.Linear)]
    return {
        "quant_method": "compressed-tensors",
        "format": FORMAT,
        "quantization_status": "compressed",
        "config_groups": groups,
        "ignore": [path for path in linear if path not in packed],
        "kv_cache_scheme": None,
        "dequantize": not by_count[0][2],
    }


def _read(path: str, found: Mapping[str, Tensor], groups: list[dict[str, Any]], folder: Path) -> QuantizedWeight:
    """One weight from its stored tensors."""
    missing = {"weight_packed", "weight_scale", "weight_shape"} - set(found)
    scheme = next((group["weights"] for group in groups if _targets(group["targets"], path)), None)
    if missing or scheme is None:
        raise DamagedArtefact(
            f"{path} in {folder} is incomplete",
            found=f"no {', '.join(sorted(missing))}" if missing else "no scheme in config.json",
            do="export the model again",
        )
    bits, symmetric = int(scheme["num_bits"]), bool(scheme["symmetric"])
    outputs, inputs = (int(size) for size in found["weight_shape"])
    scale = found["weight_scale"].reshape(outputs, -1)
    words, zero_words = found["weight_packed"], found.get("weight_zero_point")
    fits = words.shape == (outputs, packed_words(inputs, bits)) and inputs % scale.shape[1] == 0
    if not symmetric:
        fits = fits and zero_words is not None and zero_words.shape == (packed_words(outputs, bits), scale.shape[1])
    if not fits:
        raise DamagedArtefact(
            f"{path} in {folder} is damaged",
            needs=f"{bits}-bit codes of {outputs} x {inputs}",
            found=f"words {tuple(words.shape)}, scales {tuple(scale.shape)}",
            do="export the model again",
        )
    wide = scale if scale.dtype == torch.float64 else scale.float()
    if symmetric or zero_words is None:
        zero = torch.full_like(wide, 2 ** (bits - 1))
    else:
        zero = unpack(zero_words.t().contiguous(), bits, outputs).t().to(wide.dtype).contiguous()
    group_size = None if scale.shape[1] == 1 else inputs // scale.shape[1]
    return QuantizedWeight(unpack(words, bits, inputs), wide, zero, bits, group_size, symmetric)


def _targets(targets: list[str], path: str) -> bool:
    """Whether a scheme's targets name the module: by class, by name, or by a regular expression after "re:"."""
    return any(
        target == "Linear" or target == path or (target.startswith("re:") and re.match(target[3:], path))
        for target in targets
    )

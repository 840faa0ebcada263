"""Low-rank changes as a folder that peft loads: `PeftModel.from_pretrained(base, folder)`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor

from pomona.anatomy import Weight
from pomona.ground.files import write_json


class LowRank(NamedTuple):
    """scale * up @ down, a change of one weight.

    Attributes:
        down: (R, inputs). up: (outputs, R).
    """

    down: Tensor
    up: Tensor
    scale: float


def write_lora(folder: Path, weights: Sequence[Weight], changes: Sequence[LowRank], base: str | None = None) -> None:
    """Write changes of weights as a LoRA checkpoint.

    Maps that are fused in one module get one LoRA together, whose rank is the sum of theirs.

    Args:
        base: name or folder of the model that they belong to, for the record.
    """
    modules: dict[str, list[tuple[Weight, LowRank]]] = {}
    for weight, change in zip(weights, changes, strict=True):
        path = weight.name.removesuffix(f".{weight.attribute}")
        modules.setdefault(path, []).append((weight, change))
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    for path, parts in modules.items():
        outputs = parts[0][0].parameter.shape[1 if parts[0][0].transposed else 0]
        downs, ups = [], []
        for weight, change in parts:
            up = change.up.new_zeros(outputs, change.up.shape[1])
            up[slice(None) if weight.rows is None else weight.rows] = change.up * change.scale
            downs.append(change.down)
            ups.append(up)
        prefix = f"base_model.model.{path}"
        tensors[f"{prefix}.lora_A.weight"] = torch.cat(downs).detach().float().cpu().contiguous()
        tensors[f"{prefix}.lora_B.weight"] = torch.cat(ups, 1).detach().float().cpu().contiguous()
        ranks[path] = sum(change.down.shape[0] for _, change in parts)
    rank = max(ranks.values())
    pattern = {path: own for path, own in ranks.items() if own != rank}
    config = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": rank,  # the scale is in lora_B
        "rank_pattern": pattern,
        "alpha_pattern": pattern,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": any(weight.transposed for weight in weights),
        "target_modules": list(modules),
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    write_json(folder / "adapter_config.json", config)

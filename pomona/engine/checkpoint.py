"""Checkpoints: atomic, checksummed, complete, and without pickles (tensors in safetensors, the rest in JSON)."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pomona.ground.console import warn
from pomona.ground.errors import DamagedArtefact
from pomona.ground.files import atomic_folder, clear_partial, damage, read_json, write_json

FORMAT = 1


class Checkpoints:
    """The last few states of one training run, in `folder/step-NNNNNNNN`.

    A state holds parameters and buffers, the optimizer's tensors and numbers, and whatever plain values the loop
    wants back. Randomness needs no saving: the loop derives it from (seed, step, rank).
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder, self.keep = folder, keep

    def save(
        self,
        step: int,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        values: dict[str, Any],
        extra: dict[str, Tensor] | None = None,
    ) -> Path:
        """Write the state after `step` steps, then drop all but the newest `keep`."""
        path = self.folder / f"step-{step:08d}"
        tensors, numbers = _split(optimizer.state_dict())
        with atomic_folder(path, {"step": step, "format": FORMAT}) as part:
            save_file(_own(model_tensors(model)), part / "model.safetensors")
            save_file(_own(tensors), part / "optimizer.safetensors")
            if extra:
                save_file(_own(extra), part / "extra.safetensors")
            write_json(part / "state.json", {"step": step, "optimizer": numbers, "values": values})
        for old in self._steps()[: -self.keep]:
            shutil.rmtree(old)
        return path

    def newest(self) -> Path | None:
        """The newest intact state. Damaged ones are named and passed over; None when there is none at all."""
        if not self.folder.is_dir():
            return None
        clear_partial(self.folder)
        for path in reversed(self._steps()):
            wrong = damage(path)
            if not wrong:
                return path
            warn(f"checkpoint {path} is damaged ({'; '.join(wrong)}); using the one before it")
        return None

    def load(
        self, path: Path, model: nn.Module, optimizer: torch.optim.Optimizer
    ) -> tuple[int, dict[str, Any], dict[str, Tensor]]:
        """Restore model and optimizer in place; returns (steps done, plain values, extra tensors)."""
        state = read_json(path / "state.json")
        saved, here = load_file(path / "model.safetensors"), model_tensors(model)
        if saved.keys() != here.keys() or any(saved[name].shape != here[name].shape for name in here):
            raise DamagedArtefact(
                f"the checkpoint {path} belongs to another model",
                needs="the same parameter names and shapes",
                do="choose another folder for this run, or remove the checkpoints",
            )
        with torch.no_grad():
            for name, tensor in here.items():
                tensor.copy_(saved[name])
        tensors = load_file(path / "optimizer.safetensors")
        optimizer.load_state_dict(_join(state["optimizer"], tensors))
        extra = path / "extra.safetensors"
        return state["step"], state["values"], load_file(extra) if extra.is_file() else {}

    def _steps(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("step-*") if re.fullmatch(r"step-\d{8,}", path.name))


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters (tied ones once) and saved buffers by name."""
    saved = model.state_dict(keep_vars=True)
    tensors: dict[str, Tensor] = dict(model.named_parameters())
    tensors.update({name: value for name, value in model.named_buffers() if name in saved})
    return tensors


def _own(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _split(state: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Separate an optimizer's state into named tensors and JSON values."""
    tensors, numbers = {}, {}
    for index, entries in state["state"].items():
        for name, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{name}"] = value
            else:
                numbers[f"{index}.{name}"] = value
    rest = {key: value for key, value in state.items() if key not in ("state", "param_groups")}
    return tensors, {"state": numbers, "param_groups": state["param_groups"], "rest": rest}


def _join(numbers: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Any]:
    state: dict[int, dict[str, Any]] = {}
    for key, value in [*numbers["state"].items(), *tensors.items()]:
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    return {"state": state, "param_groups": numbers["param_groups"], **numbers["rest"]}

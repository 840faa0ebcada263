"""Adapters that add to what linear maps give: y = W x + delta(x), where delta becomes a matrix when it is merged.

The model's weights are never written before `merge_`, so that detaching restores it bit for bit, and several adapters
on one model simply add up. Their parameters are guests of the model (`pomona.anatomy.guests`).
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pomona.adapters.adapter import Adapter, freeze_except
from pomona.anatomy import GUESTS, Anatomy, Weight
from pomona.ground.errors import DamagedArtefact, DataError
from pomona.ground.files import read_json, write_json

FORMAT = 1
CONFIG, TENSORS = "adapter.json", "adapter.safetensors"


class Delta(nn.Module, ABC):
    """What is added to one linear map."""

    @abstractmethod
    def forward(self, inputs: Tensor) -> Tensor:
        """(..., outputs) of (..., inputs)."""

    @abstractmethod
    def dense(self) -> Tensor:
        """The same as a matrix, (outputs, inputs), in the widest dtype it is made of."""


class DeltaAdapter(Adapter):
    """Deltas attached to a model.

    Args:
        body: of the model. deltas: one for each of `weights`.
        head: parameters of the task's own head, which train as they are.
        method: slug. settings: of the method, for the file.
    """

    def __init__(
        self,
        body: Anatomy,
        weights: Sequence[Weight],
        deltas: Sequence[Delta],
        head: Sequence[nn.Parameter],
        method: str,
        settings: Mapping[str, Any],
    ) -> None:
        self.body, self.weights, self.method, self.settings = body, list(weights), method, dict(settings)
        self.names = [weight.name + ("" if weight.runs is None else f"[{weight.role}]") for weight in weights]
        self.deltas = nn.ModuleList(deltas).to(body.model.device)
        if not hasattr(body.model, GUESTS):
            body.model.add_module(GUESTS, nn.ModuleList())
        self._place().append(self.deltas)
        owners: dict[nn.Module, list[tuple[Weight, Delta]]] = {}
        for weight, delta in zip(weights, deltas, strict=True):
            owners.setdefault(weight.owner, []).append((weight, delta))
        self._hooks = [owner.register_forward_hook(_adding(pairs)) for owner, pairs in owners.items()]
        freeze_except(body, [*self.deltas.parameters(), *head])

    def _place(self) -> nn.ModuleList:
        place = getattr(self.body.model, GUESTS)
        assert isinstance(place, nn.ModuleList)
        return place

    @torch.no_grad()
    def merge_(self) -> None:
        """Add every delta to its weight and detach."""
        for weight, delta in zip(self.weights, self.deltas, strict=True):
            assert isinstance(delta, Delta)
            change = delta.dense()
            weight.write_(weight.read().to(change.dtype) + change)
        self.detach_()

    def detach_(self) -> None:
        """Take everything away; the model is what it was."""
        for hook in self._hooks:
            hook.remove()
        left = [each for each in self._place() if each is not self.deltas]
        if left:
            self.body.model.add_module(GUESTS, nn.ModuleList(left))
        else:
            delattr(self.body.model, GUESTS)

    # ---- files

    def save(self, folder: Path) -> None:
        """Write the adapter alone, with a hash of every weight that it belongs to."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.deltas.state_dict().items()}
        save_file(tensors, folder / TENSORS)
        bases = {name: hash_of(weight) for name, weight in zip(self.names, self.weights, strict=True)}
        write_json(
            folder / CONFIG,
            {"format": FORMAT, "method": self.method, "settings": self.settings, "weights": bases},
        )

    def load_(self, folder: Path) -> None:
        """Read what `save` wrote into the same adapter, attached to the same weights.

        Raises:
            DataError: it was made by another method or for other weights.
            DamagedArtefact: tensors are absent or have another shape.
        """
        facts = read_json(folder / CONFIG)
        own = {name: hash_of(weight) for name, weight in zip(self.names, self.weights, strict=True)}
        if facts["method"] != self.method or facts["weights"].keys() != own.keys():
            raise DataError(
                "the adapter belongs to another model",
                where=str(folder),
                needs=f"{self.method} of {len(own)} weights, {next(iter(own))} ...",
                found=f"{facts['method']} of {len(facts['weights'])}",
            )
        if changed := [name for name, value in own.items() if facts["weights"][name] != value]:
            raise DataError(
                "the adapter was trained on other weights than these",
                where=str(folder),
                found=f"{len(changed)} differ, {changed[0]} is one",
                do="attach it to the model that it was trained on",
            )
        saved = load_file(folder / TENSORS)
        here = self.deltas.state_dict()
        if {name: value.shape for name, value in saved.items()} != {name: value.shape for name, value in here.items()}:
            raise DamagedArtefact("the adapter does not hold the tensors that its settings say", where=str(folder))
        self.deltas.load_state_dict(saved)


def hash_of(weight: Weight) -> str:
    """SHA-256 of the canonical values of a weight, as float32, in 16 hexadecimal digits."""
    values = weight.read().float().contiguous().cpu().numpy()
    return hashlib.sha256(values.tobytes()).hexdigest()[:16]


def _adding(pairs: Sequence[tuple[Weight, Delta]]) -> Any:
    """A hook that adds what the deltas of one module give; of fused maps each to its own outputs."""

    def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if len(pairs) == 1 and pairs[0][0].rows is None:
            added: Tensor = pairs[0][1](args[0])
            return output + added.to(output.dtype)
        changed = output.clone()
        for weight, delta in pairs:
            rows = slice(None) if weight.rows is None else weight.rows
            changed[..., rows] = changed[..., rows] + delta(args[0]).to(output.dtype)
        return changed

    return hook

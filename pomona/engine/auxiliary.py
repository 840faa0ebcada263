"""Objectives with networks of their own: trained along with the model, in its checkpoints, charged, never exported."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pomona.anatomy import Anatomy
from pomona.engine.checkpoint import model_tensors
from pomona.engine.protocols import Objective
from pomona.ground.errors import DamagedArtefact

PREFIX = "objective."
"""Of the tensors of an objective in a checkpoint."""
FILE = "objective/networks.safetensors"
"""Its tensors in the folder of a model that was trained with it; who loads or exports the model does not see them."""


class AuxiliaryObjective(nn.Module):
    """The base of objectives that train more than the model, such as a generator or a decoder that is thrown away.

    An objective is built for a vocabulary; what it needs for one model it makes in `attach`. Its networks are its
    submodules, the model is not among them: a parameter that both share belongs to the model.

    Attributes:
        companions: what is trained, each as an anatomy where it has one (so that optimizers tell its matrices from its
            tables), else as a module.
    """

    def __init__(self) -> None:
        super().__init__()
        self.companions: list[Anatomy | nn.Module] = []

    @abstractmethod
    def attach(self, body: Anatomy, *, seed: int) -> None:
        """Make the networks for a model, from `seed` alone, and list them in `companions`; on the meta device too.

        Raises:
            UnsupportedModel: none can be made for this model.
        """


def attach(objective: Objective, body: Anatomy, *, seed: int) -> None:
    """Let an objective make its networks for a model, and the model's anatomy name them, for the optimizer.

    For objectives without networks nothing happens.
    """
    if isinstance(objective, AuxiliaryObjective):
        with torch.random.fork_rng(devices=[]), torch.device(next(body.model.parameters()).device):
            torch.manual_seed(seed)
            objective.attach(body, seed=seed)
    accompany(body, objective)


def accompany(body: Anatomy, objective: Objective) -> None:
    """Let an anatomy name what is trained along with its model."""
    body.companions = list(objective.companions) if isinstance(objective, AuxiliaryObjective) else []


def tensors_of(objective: Objective) -> dict[str, Tensor]:
    """What a checkpoint keeps of an objective; nothing for most."""
    if not isinstance(objective, AuxiliaryObjective):
        return {}
    return {f"{PREFIX}{name}": tensor for name, tensor in model_tensors(objective).items()}


@torch.no_grad()
def restore(objective: Objective, tensors: Mapping[str, Tensor]) -> None:
    """The reverse of `tensors_of`. Raises `DamagedArtefact` where they belong to other networks."""
    own = tensors_of(objective)
    if any(name not in tensors or tensors[name].shape != tensor.shape for name, tensor in own.items()):
        raise DamagedArtefact(
            f"the networks of {objective.name} are others than those that were saved",
            do="choose another folder for this run, or the parameters of the objective as they were",
        )
    for name, tensor in own.items():
        tensor.copy_(tensors[name])


def keep(objective: Objective, folder: Path) -> None:
    """Write an objective's networks beside the model that they were trained with, for those who go on training."""
    if tensors := tensors_of(objective):
        (folder / FILE).parent.mkdir(exist_ok=True)
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, folder / FILE)


def recall(folder: Path, objective: Objective) -> bool:
    """Let an objective go on with the networks beside a model, if they are of its kind and sizes; whether it does."""
    own = {name: tensor.shape for name, tensor in tensors_of(objective).items()}
    if not own or not (folder / FILE).is_file():
        return False
    saved = load_file(folder / FILE)
    if {name: tensor.shape for name, tensor in saved.items()} != own:
        return False
    restore(objective, saved)
    return True

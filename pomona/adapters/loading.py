"""Attach an adapter that was saved, and load models that keep theirs."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import PreTrainedModel

from pomona import anatomy
from pomona.adapters.adapter import Adapter
from pomona.adapters.dylora import DyloraConfig
from pomona.adapters.meft import MeftConfig
from pomona.adapters.svfit import SvfitConfig
from pomona.ground.errors import DataError
from pomona.ground.files import read_json

SAVED = {"svfit": SvfitConfig, "dylora": DyloraConfig, "meft": MeftConfig}
"""Those that save in a form of their own; peft loads `lora`."""
FOLDER = "adapter"
"""Where it lies in the folder of a model."""


def attach(model: PreTrainedModel, folder: str | Path) -> Adapter:
    """Attach a saved adapter to the model that it was trained on; then it can be trained on, merged or detached.

    Raises:
        DataError: there is no such adapter, or it belongs to another model.
        DamagedArtefact: its tensors do not fit its settings.
    """
    folder = Path(folder)
    file = folder / "adapter.json"
    if not file.is_file():
        found = "one that peft loads" if (folder / "adapter_config.json").is_file() else "none"
        raise DataError(f"{folder} holds no adapter of pomona", needs="adapter.json", found=found)
    facts = read_json(file)
    if facts.get("method") not in SAVED:
        raise DataError("the adapter is of an unknown method", where=str(file), found=str(facts.get("method")))
    adapter: Adapter = SAVED[facts["method"]](**facts["settings"]).attach_(anatomy.of(model))
    adapter.load_(folder)
    return adapter


def load(folder: str | Path, *, dtype: torch.dtype | None = torch.float32) -> PreTrainedModel:
    """The model of a folder with the adapter that it keeps because it cannot be merged; others as `anatomy.load`.

    Raises: as `anatomy.load` and `attach`.
    """
    folder = Path(folder)
    model = anatomy.load(folder, dtype=dtype, keeps_adapter=True)
    if getattr(model.config, anatomy.KEEPS, None) is not None:
        attach(model, folder / FOLDER)
    return model.eval()

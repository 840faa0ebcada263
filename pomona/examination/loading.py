"""Open a model folder for measuring: in float32, whatever form the weights are stored in, and without foreign code."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pomona.ground.errors import DataError, UnsafeFile, UnsupportedModel
from pomona.ground.files import read_json
from pomona.ground.quiet import without_bars

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_model(folder: Path) -> PreTrainedModel:
    """The model of a Hugging Face folder, in evaluation mode; packed weights are unpacked.

    Raises:
        DataError: the folder holds no model, or none that transformers knows.
        UnsafeFile: the weights are a pickle, or the folder brings its own code.
        UnsupportedModel: the weights are compressed in another form than compressed-tensors.
    """
    import torch
    import transformers

    config = _config(folder)
    if not any(folder.glob("*.safetensors")):
        pickles = sorted(file.name for suffix in ("bin", "pt", "pth", "ckpt") for file in folder.glob(f"*.{suffix}"))
        if pickles:
            raise UnsafeFile(
                f"{folder} holds its weights as a pickle",
                needs="*.safetensors",
                found=", ".join(pickles),
                do="convert it first, where you trust it: load it with transformers and save_pretrained it",
            )
        raise DataError(f"{folder} holds no weights", needs="*.safetensors", found="none")
    names = config.get("architectures") or []
    kind = getattr(transformers, str(names[0]), None) if names else None
    if kind is None or not hasattr(kind, "from_pretrained"):
        raise DataError(
            f"{folder} does not say which model it is",
            where=str(folder / "config.json"),
            needs="architectures: a model class of transformers",
            found=str(names),
        )
    options: dict[str, Any] = {}
    packed = config.get("quantization_config")
    if packed is not None:
        if packed.get("quant_method") != "compressed-tensors":
            raise UnsupportedModel(
                f"{folder} is compressed in a form that is not examined",
                needs="quant_method: compressed-tensors",
                found=str(packed.get("quant_method")),
                do="examine it with the tool that made it, or export it in the compressed-tensors format",
            )
        options["quantization_config"] = transformers.CompressedTensorsConfig(dequantize=True)
    with warnings.catch_warnings(), without_bars():
        warnings.filterwarnings("ignore", message="You passed `quantization_config`")  # to unpack, on purpose
        model: PreTrainedModel = kind.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, use_safetensors=True, **options
        )
    return model.eval()


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a Hugging Face folder; remote code is never run."""
    from transformers import AutoTokenizer

    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise DataError(
            f"{folder} holds no tokenizer",
            needs="tokenizer.json",
            found=str(error).strip().partition("\n")[0],
            do="save the tokenizer into the folder",
        ) from error
    return tokenizer


def _config(folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    if not file.is_file():
        raise DataError(f"{folder} is not a model", needs="config.json", found="none")
    values = read_json(file)
    if not isinstance(values, dict):
        raise DataError(f"{file} is not a model's configuration", needs="a mapping", found=type(values).__name__)
    if "auto_map" in values:
        raise UnsafeFile(
            f"{folder} brings its own code",
            found=f"auto_map in {file}",
            do="use a model whose code transformers has",
        )
    return values

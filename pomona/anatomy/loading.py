"""Load a model folder without running foreign code, also one whose sizes no field of transformers expresses."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from transformers import AutoConfig

from pomona.anatomy.architecture import build, sized
from pomona.anatomy.guests import KEEPS
from pomona.ground.errors import DamagedArtefact, DataError, UnsafeFile, UnsupportedModel
from pomona.ground.files import read_json
from pomona.ground.quiet import without_bars
from pomona.ground.weights import refuse_without_weights

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


def load(
    folder: str | Path, *, dtype: torch.dtype | None = torch.float32, keeps_adapter: bool = False
) -> PreTrainedModel:
    """The model of a Hugging Face folder, in evaluation mode; packed weights are unpacked.

    Sizes that its configuration records (see `pomona.anatomy.sizes`) are applied; every weight of the model must be in
    the folder.

    Args:
        dtype: of the weights; None keeps what the folder says.
        keeps_adapter: load the bare model of a folder with an adapter that cannot be merged; else it is refused.
    Raises:
        DataError: the folder holds no model, or none that transformers knows.
        DamagedArtefact: not all of its weights are there, or some have another shape.
        UnsafeFile: the weights are a pickle, or the folder brings its own code.
        UnsupportedModel: the weights are compressed in another form than compressed-tensors, or the model is nothing
            without its adapter.
    """
    folder = Path(folder)
    config = read_config(folder)
    if (adapter := getattr(config, KEEPS, None)) is not None and not keeps_adapter:
        raise UnsupportedModel(
            f"{folder} keeps an adapter",
            needs="a model of its own weights alone",
            found=f"{adapter}, which cannot be merged",
            do="load it with pomona.adapters.load, or adapt with a method that can be merged",
        )
    if not any(folder.glob("*.safetensors")):
        refuse_without_weights(folder)
    options: dict[str, Any] = {"dtype": "auto" if dtype is None else dtype}
    packed = getattr(config, "quantization_config", None)
    if packed is not None:
        method = packed.get("quant_method") if isinstance(packed, dict) else packed.quant_method
        if method != "compressed-tensors":
            raise UnsupportedModel(
                f"{folder} is compressed in a form that is not read here",
                needs="quant_method: compressed-tensors",
                found=str(method),
                do="use the tool that made it, or export it in the compressed-tensors format",
            )
        options["quantization_config"] = transformers.CompressedTensorsConfig(dequantize=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="You passed `quantization_config`")  # to unpack, on purpose
        return read_weights(class_of(config, folder), folder, config, **options)


def shadow(folder: str | Path) -> PreTrainedModel:
    """The model of a folder without its weights: shapes only, on the meta device. Raises as `load` does."""
    config = read_config(Path(folder))
    vars(config).pop("quantization_config", None)  # the shapes are those of the unpacked weights
    return build(class_of(config, Path(folder)), config).to("meta")


def read_weights(
    model_class: type[PreTrainedModel], folder: Path, config: PretrainedConfig, **options: Any
) -> PreTrainedModel:
    """`model_class.from_pretrained`, with the sizes that the configuration records, and no weight left out.

    Args:
        options: further arguments of `from_pretrained`.
    Raises:
        DamagedArtefact: weights are absent or have another shape.
    """
    try:
        with without_bars():
            model, found = sized(model_class).from_pretrained(
                folder,
                config=config,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
                **options,
            )
    except (RuntimeError, ValueError, OSError) as error:
        raise DamagedArtefact(
            f"transformers cannot load {folder}",
            found=" ".join(str(error).split())[:400],
            do="check that config.json and the weights belong together, or copy the model again",
        ) from error
    model.__class__ = model_class
    if found["missing_keys"]:
        names = sorted(found["missing_keys"])
        raise DamagedArtefact(
            f"{folder} does not hold all weights of its model",
            needs=f"{len(names)} more",
            found="nothing at " + ", ".join(names[:3]) + (" ..." if len(names) > 3 else ""),
            do="save the whole model, or name the class that was saved under architectures in config.json",
        )
    return model.eval()


def read_config(folder: Path) -> PretrainedConfig:
    """The configuration of a folder. Raises `DataError` or `UnsafeFile` when it is not one that can be used."""
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
    if values.get("model_type") not in transformers.CONFIG_MAPPING:
        raise DataError(f"transformers does not know this model_type: {values.get('model_type')!r}", where=str(file))
    config: PretrainedConfig = AutoConfig.from_pretrained(folder, local_files_only=True)
    return config


def class_of(config: PretrainedConfig, folder: Path) -> type[PreTrainedModel]:
    """The class of transformers that the configuration names. Raises `DataError` when there is none."""
    names = config.architectures or []
    found = getattr(transformers, str(names[0]), None) if names else None
    if found is None or not hasattr(found, "from_pretrained"):
        raise DataError(
            f"{folder} does not say which model it is",
            where=str(folder / "config.json"),
            needs="architectures: a model class of transformers",
            found=str(names),
        )
    return found  # type: ignore[no-any-return]

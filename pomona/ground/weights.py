"""Weights are read from safetensors only: a pickle can run code when it is read."""

from __future__ import annotations

from pathlib import Path

from pomona.ground.errors import DataError, UnsafeFile

PICKLES = ("bin", "pt", "pth", "ckpt", "pkl")
"""Suffixes under which weights are found pickled."""


def refuse_without_weights(folder: Path, needs: str = "*.safetensors") -> None:
    """Say why there is nothing to read in a folder without the weights that are needed.

    Args:
        needs: the files that were looked for.
    Raises:
        UnsafeFile: the folder holds pickles instead.
        DataError: it holds no weights at all.
    """
    pickles = sorted(file.name for suffix in PICKLES for file in folder.glob(f"*.{suffix}"))
    if pickles:
        raise UnsafeFile(
            f"{folder} holds its weights as a pickle",
            needs=needs,
            found=", ".join(pickles[:3]) + (" ..." if len(pickles) > 3 else ""),
            do="convert it first, where you trust it: load it with transformers and save_pretrained it",
        )
    raise DataError(f"{folder} holds no weights", needs=needs, found="none")

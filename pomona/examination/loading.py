"""Open the tokenizer of a model folder, without foreign code."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pomona.ground.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


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

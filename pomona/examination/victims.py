"""Models in folders as an attack sees them: a classifier that answers, a masked model that knows what is natural."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pomona import anatomy
from pomona.examination.attacking import Classify
from pomona.ground.errors import ConfigError

BATCH = 32
TURNS = 7
"""One of so many tokens is masked at a time for the pseudo-perplexity."""


def classify_with(folder: Path, longest: int = 256) -> Classify:
    """A classifier's probabilities, by its own forward in float32."""
    model, tokenizer = _opened(folder)
    limit = min(longest, anatomy.of(model).max_positions or longest)

    @torch.no_grad()
    def classify(texts: Sequence[str]) -> list[list[float]]:
        found: list[list[float]] = []
        for start in range(0, len(texts), BATCH):
            batch = list(texts[start : start + BATCH])
            encoded = tokenizer(batch, padding=True, truncation=True, max_length=limit, return_tensors="pt")
            logits = model(input_ids=encoded["input_ids"], attention_mask=encoded["attention_mask"]).logits
            found += logits.float().softmax(-1).tolist()
        return found

    return classify


class MaskedFluency:
    """What a masked model finds natural.

    Args:
        folder: of the model and its tokenizer, which has a mask token.
        longest: tokens of a text that it looks at.
        top: predictions that are kept for each part of a word. kept: of the words made of them, those whose states are
            nearest to the original's.
    """

    def __init__(self, folder: Path, longest: int = 256, top: int = 60) -> None:
        self.model, self.tokenizer = _opened(folder)
        if self.tokenizer.mask_token_id is None:
            raise ConfigError(f"{folder} cannot say what is natural", needs="a model with a mask token", found="none")
        self.longest = min(longest, anatomy.of(self.model).max_positions or longest)
        self.top = top

    @torch.no_grad()
    def candidates(self, text: str, places: Sequence[tuple[int, int]], most: int) -> list[str]:
        """Words for the stretches: the j-th predictions of their parts put together, nearest states first.

        Nothing is masked: the model is asked what else could stand where something stands. Stretches beyond the model's
        reach are left out.
        """
        ids, spans = self._encoded(text)
        (states,), (logits,) = self._run(ids[None])
        best: dict[str, float] = {}
        for start, end in places:
            inside = [place for place, (low, high) in enumerate(spans) if low < end and high > start and high > low]
            if not inside:
                continue
            predicted = logits[inside].topk(min(self.top, logits.shape[-1])).indices.T
            changed = ids.repeat(len(predicted), 1)
            changed[:, inside] = predicted
            found, _ = self._run(changed)
            near = torch.nn.functional.cosine_similarity(found[:, inside], states[inside][None], dim=-1).mean(1)
            for row, nearness in zip(predicted.tolist(), near.tolist(), strict=True):
                word = self.tokenizer.decode(row).strip().replace(" ", "")
                if word and word != text[start:end]:
                    best[word] = max(best.get(word, -1.0), nearness)
        return sorted(best, key=lambda word: -best[word])[:most]

    @torch.no_grad()
    def strangeness(self, text: str) -> float:
        """Pseudo-perplexity: exp of the mean of -log p of each token, where one of `TURNS` is masked at a time."""
        ids, _ = self._encoded(text)
        places = torch.arange(len(ids))
        hidden = torch.stack([places % TURNS == turn for turn in range(min(TURNS, len(ids)))])
        _, logits = self._run(torch.where(hidden, self.tokenizer.mask_token_id, ids))
        right = logits.log_softmax(-1).gather(2, ids.expand(len(hidden), -1)[..., None])[..., 0]
        return math.exp(-float(right[hidden].sum()) / max(1, len(ids)))

    def _run(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """States after the last block (B, T, D), and logits (B, T, V), of texts of one length."""
        found: list[Tensor] = []
        blocks = anatomy.of(self.model).stacks[0].blocks
        with anatomy.tap_outputs(blocks[-1], found.append):
            logits = self.model(input_ids=ids).logits
        return found[0], logits.float()

    def _encoded(self, text: str) -> tuple[Tensor, list[tuple[int, int]]]:
        encoded: Any = self.tokenizer(text, truncation=True, max_length=self.longest, return_offsets_mapping=True)
        return torch.tensor(encoded["input_ids"]), [tuple(span) for span in encoded["offset_mapping"]]


def fluency_of(folder: Path) -> MaskedFluency:
    return MaskedFluency(folder)


def _opened(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoTokenizer

    return anatomy.load(folder), AutoTokenizer.from_pretrained(str(folder), local_files_only=True)

"""Carry out `examine`: the same held-out text, prompts and machine for every model."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from pomona.data import Corpus, Tokens, validation_batches
from pomona.engine import Ledger
from pomona.engine.speed import training_dtype
from pomona.examination.quality import examine as quality_of
from pomona.examination.records import Examination, ModelRow
from pomona.examination.samples import continue_prompts, prompts_from, writer_of
from pomona.examination.size import size_of
from pomona.ground.console import say
from pomona.ground.errors import DataError
from pomona.ground.files import write_json
from pomona.objectives import NextToken
from pomona.stages.base import Artefact, Job, Made

if TYPE_CHECKING:
    from pomona.stages.examine import ExamineStage

PROMPTS = ("The", "This function returns", "To install the package,")
"""Where no held-out document is long enough."""


def examine(stage: ExamineStage, job: Job) -> Made:
    """Measure every model; writes examination.json."""
    data = job.input("data")
    tokens = Tokens.open(data.folder)
    batches = validation_batches(
        tokens.validation, batch_size=16, seq_length=stage.seq_length, limit_tokens=stage.tokens
    )
    ledger = Ledger()
    rows = []
    for artefact in job.inputs["models"]:
        quality = quality_of(
            artefact.folder,
            NextToken(),
            batches,
            token_bytes=torch.from_numpy(tokens.token_bytes),
            dtype=training_dtype("auto"),
            ledger=ledger,
        )
        rate, by = decode_rate(artefact.folder, stage.decode_tokens)
        rows.append(row_of(artefact, quality, rate, by))
        bits = f" ({quality.bits_per_byte:.3f} bits/byte)" if quality.bits_per_byte is not None else ""
        speed = f", writes {rate:.0f} tokens/s" if rate else ""
        say(f"  {artefact.name}: {quality.nats_per_token:.3f} nats/token{bits}{speed}")
    writers = {artefact.name: writer_of(artefact.folder) for artefact in job.inputs["models"]}
    samples = continue_prompts(writers, stage.prompts or held_out_prompts(data), max_new_tokens=48)
    write_json(
        job.folder / "examination.json",
        {"models": [asdict(row) for row in rows], "samples": [asdict(sample) for sample in samples]},
    )
    return Made({"models": [row.name for row in rows], "note": f"{len(rows)} models"}, ledger)


def decode_rate(folder: Path, tokens: int) -> tuple[float | None, str]:
    """Tokens per second of writing one sequence, and what wrote them."""
    return None, ""


def held_out_prompts(data: Artefact) -> tuple[str, ...]:
    """Beginnings of held-out documents, where the corpus is at hand and has long enough ones."""
    corpus = next(iter(data.parents.get("from", ())), None)
    if corpus is None:
        return PROMPTS
    try:
        return prompts_from(document.text for document in Corpus.open(corpus.folder).documents("validation"))
    except DataError:
        return PROMPTS


def row_of(artefact: Artefact, quality: Examination | None, rate: float | None = None, by: str = "") -> ModelRow:
    """What report and card say about one folder."""
    size = size_of(artefact.folder)
    bits, group_size = artefact.facts.get("bits"), artefact.facts.get("group_size")
    groups = f", groups of {group_size}" if group_size else ""
    return ModelRow(
        name=artefact.name,
        folder=str(artefact.folder),
        bytes=size.bytes,
        parameters=size.parameters,
        quality=quality,
        decode_tokens_per_second=rate,
        bits_per_weight=size.bits_per_weight,
        form=f"{bits}-bit{groups}" if bits else "dense",
        decoded_by=by,
    )

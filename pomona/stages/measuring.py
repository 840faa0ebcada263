"""Carry out `examine`: the same held-out text, prompts and machine for every model."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pomona import anatomy
from pomona.data import Tokens, validation_batches
from pomona.engine import Batch, Ledger, evaluate
from pomona.engine.speed import training_dtype
from pomona.examination.records import Examination, ModelRow, Sample
from pomona.ground.files import MANIFEST, write_json
from pomona.objectives import NextToken
from pomona.stages import models
from pomona.stages.base import Artefact, Job, Made

if TYPE_CHECKING:
    from pomona.stages.examine import ExamineStage

NOT_THE_MODEL = {MANIFEST, "ledger.json", "metrics.jsonl", "README.md"}
"""Files of a model's folder that are not needed to run it."""


def examine(stage: ExamineStage, job: Job) -> Made:
    """Measure every model; writes examination.json."""
    from pomona.runtime import decode

    tokens = Tokens.open(job.input("data").folder)
    ledger = Ledger()
    rows: list[ModelRow] = []
    written: list[dict[str, str]] = [{} for _ in stage.prompts]
    for artefact in job.inputs["models"]:
        quality = quality_of(artefact.folder, tokens, stage.tokens, stage.seq_length, ledger)
        texts, rate, by = decode.measure(artefact.folder, stage.prompts, new_tokens=stage.decode_tokens)
        for index, text in enumerate(texts):
            written[index][artefact.name] = text
        rows.append(row_of(artefact, quality, rate, by))
    samples = [Sample(prompt, texts) for prompt, texts in zip(stage.prompts, written, strict=True)]
    write_json(
        job.folder / "examination.json",
        {"models": [asdict(row) for row in rows], "samples": [asdict(sample) for sample in samples]},
    )
    return Made({"models": [row.name for row in rows], "note": f"{len(rows)} models"}, ledger)


def quality_of(folder: Path, tokens: Tokens, limit: int, seq_length: int, ledger: Ledger) -> Examination:
    """Held-out quality of a model folder, in the precision in which the engine evaluates."""
    model = models.load(folder)
    batches: list[Batch] = validation_batches(
        tokens.validation, batch_size=16, seq_length=seq_length, limit_tokens=limit
    )
    quality = evaluate(
        anatomy.of(model),
        NextToken(),
        batches,
        token_bytes=torch.from_numpy(tokens.token_bytes),
        dtype=training_dtype("auto"),
        ledger=ledger,
    )
    return Examination(
        nats_per_token=quality.nats_per_token,
        bits_per_byte=quality.bits_per_byte,
        perplexity=quality.perplexity,
        accuracy=quality.accuracy,
        tokens=quality.tokens,
        bytes=quality.bytes,
    )


def row_of(artefact: Artefact, quality: Examination | None, rate: float | None, by: str) -> ModelRow:
    """What the report says about one folder."""
    facts: Any = artefact.facts
    weights = sum(file.stat().st_size for file in artefact.folder.glob("*.safetensors"))
    everything = sum(
        file.stat().st_size for file in artefact.folder.iterdir() if file.is_file() and file.name not in NOT_THE_MODEL
    )
    bits = facts.get("bits")
    groups = f", groups of {facts['group_size']}" if facts.get("group_size") else ""
    return ModelRow(
        name=artefact.name,
        folder=str(artefact.folder),
        bytes=everything,
        parameters=int(facts.get("parameters", 0)),
        quality=quality,
        decode_tokens_per_second=rate,
        bits_per_weight=8 * weights / facts["parameters"] if facts.get("parameters") else None,
        form=f"{bits}-bit{groups}" if bits else "dense",
        decoded_by=by,
    )

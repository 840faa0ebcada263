"""Carry out `examine`: the same held-out text, prompts and machine for every model."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch

from pomona import anatomy
from pomona.data import Corpus, Tokens, validation_batches
from pomona.engine import Ledger
from pomona.engine.speed import training_dtype
from pomona.examination.quality import examine as quality_of
from pomona.examination.records import Examination, ModelRow, Sample
from pomona.examination.samples import Generate, Sampling, continue_prompts, prompts_from
from pomona.examination.size import size_of
from pomona.ground.console import say
from pomona.ground.errors import DataError
from pomona.ground.files import write_json
from pomona.ground.machine import has_fast_bfloat16
from pomona.runtime import Generator
from pomona.stages.base import Artefact, Job, Made
from pomona.stages.fitting import length_of, objective_of
from pomona.stages.models import load_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel

    from pomona.ground.config import MethodConfig
    from pomona.stages.examine import ExamineStage

PROMPTS = ("The", "This function returns", "To install the package,")
"""Where no held-out document is long enough."""
WORDS = 48
"""Tokens of a sample."""


def examine(stage: ExamineStage, job: Job) -> Made:
    """Measure every model; writes examination.json."""
    data = job.input("data")
    tokens = Tokens.open(data.folder)
    method = objective_of(stage.objective, [artefact.facts for artefact in job.inputs["models"]])
    length = length_of(stage.seq_length, [{"facts": artefact.facts} for artefact in job.inputs["models"]])
    objective = method.build(tokens.tokenizer)  # type: ignore[attr-defined]
    batches = validation_batches(tokens.validation, batch_size=16, seq_length=length, limit_tokens=stage.tokens)
    prompts = stage.prompts or held_out_prompts(data)
    ledger = Ledger()
    rows: list[ModelRow] = []
    samples: dict[tuple[str, str], dict[str, str]] = {}
    asked: dict[str, dict[str, Any]] = {}
    for artefact in job.inputs["models"]:
        with opened(artefact, stage.accelerator) as model:
            quality = quality_of(
                model,
                objective,
                batches,
                token_bytes=torch.from_numpy(tokens.token_bytes),
                dtype=training_dtype("auto"),
                ledger=ledger,
            )
        rate, by = None, ""
        if method.method == "next-token":
            generator = open_for_writing(artefact)
            speed = generator.measure(stage.decode_tokens)
            rate, by = speed.tokens_per_second, f"{speed.engine}, {speed.scheme}"
            for sample in continue_prompts({artefact.name: writer_of(generator)}, prompts, max_new_tokens=WORDS):
                samples.setdefault((sample.prompt, sample.mode), {}).update(sample.continuations)
        rows.append(row_of(artefact, quality, rate, by))
        bits = f" ({quality.bits_per_byte:.3f} bits/byte)" if quality.bits_per_byte is not None else ""
        pace = f", writes {rate:,.0f} tokens/s" if rate else ""
        say(f"  {artefact.name}: {quality.nats_per_token:.3f} nats/token{bits}{pace}")
        if stage.benchmark is not None:
            asked[artefact.name] = answers(stage.benchmark, artefact, ledger)
    written = [Sample(prompt, texts, mode) for (prompt, mode), texts in samples.items()]
    write_json(
        job.folder / "examination.json",
        {"models": [asdict(row) for row in rows], "samples": [asdict(sample) for sample in written]},
    )
    facts: dict[str, Any] = {"models": [row.name for row in rows], "note": f"{len(rows)} models"}
    if asked:
        write_json(job.folder / "benchmark.json", asked)
        facts["benchmark"] = {name: said["numbers"] for name, said in asked.items()}
    return Made(facts, ledger)


def answers(benchmark: MethodConfig, artefact: Artefact, ledger: Ledger) -> dict[str, Any]:
    """What a model answers to a benchmark, as plain values; the means are told."""
    began = time.perf_counter()
    tokenizer = load_tokenizer(artefact.folder)
    report = benchmark.run(anatomy.load(artefact.folder).eval(), tokenizer)  # type: ignore[attr-defined]
    ledger.charge("benchmark", seconds=time.perf_counter() - began)
    shown = ", ".join(f"{name} {value:.3g}" for name, value in report.numbers.items() if not name.endswith("bytes"))
    say(f"  {artefact.name}, {benchmark.method}: {shown}")
    found: dict[str, Any] = report.to_dict()
    return found


@contextmanager
def opened(artefact: Artefact, accelerator: MethodConfig | None) -> Iterator[Path | PreTrainedModel]:
    """A model to score: its folder, or, loaded, within an accelerator."""
    if accelerator is None:
        yield artefact.folder
        return
    model = anatomy.load(artefact.folder)
    with accelerator.attach(model):  # type: ignore[attr-defined]
        yield model


def open_for_writing(artefact: Artefact) -> Generator:
    """The fast decoder; dense weights in bfloat16 where the processor multiplies it, the best that they can do."""
    dense = not artefact.facts.get("bits")
    return Generator.load(artefact.folder, dtype="bfloat16" if dense and has_fast_bfloat16() else "auto", quiet=True)


def writer_of(generator: Generator) -> Generate:
    """The decoder as what continues a prompt. A prompt longer than half of the positions loses its beginning."""

    def write(prompt: str, *, max_new_tokens: int, sampling: Sampling) -> str:
        assert generator.tokenizer is not None
        ids = list(generator.tokenizer(prompt)["input_ids"])
        if generator.max_positions is not None:
            ids = ids[-max(1, generator.max_positions // 2) :]
        (made,) = generator.generate([ids], max_new_tokens, temperature=sampling.temperature, seed=sampling.seed)
        return made.text

    return write


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

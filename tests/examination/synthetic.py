"""Invented runs for looking at a report and for testing it. Nothing here was measured."""

from __future__ import annotations

import math
import random
from typing import Any

from pomona.examination.records import Arm, Examination, ModelRow, ReportData, Sample, StageRecord

BITS_PER_NAT = 0.41
"""Invented: bits per byte of one nat per token (3.5 bytes per token)."""


def training(
    *,
    steps: int,
    tokens: int,
    flops: float,
    seconds: float,
    start: float,
    end: float,
    shape: float = 0.5,
    every: int = 50,
    seed: int = 0,
    sweep: float = 0.0,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Ledger and metrics of a run whose loss (nats per token) falls from `start` to `end`."""
    draw = random.Random(seed)
    lines: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        share = step / steps
        fall = (1 - (share**shape)) * (1 if share < 0.8 else 1 - 0.6 * (share - 0.8) / 0.2)
        loss = end + (start - end) * fall
        position = {"step": step, "tokens": tokens * share, "flops": flops * share, "seconds": seconds * share}
        if step % 5 == 0 or step == 1:
            noisy = loss + draw.gauss(0, 0.06)
            lines.append({**position, "loss": noisy, "bits_per_byte": noisy * BITS_PER_NAT, "learning_rate": 0.01})
        if step % every == 0 or step == steps:
            quality = {"nats_per_token": loss, "bits_per_byte": loss * BITS_PER_NAT, "accuracy": 1 / (1 + loss)}
            lines.append({**position, "validation": quality})
    purposes = {
        "train": {"flops": 0.95 * flops, "seconds": seconds, "tokens": tokens},
        "optimizer": {"flops": 0.05 * flops, "seconds": 0.0, "tokens": 0},
        "evaluate": {"flops": 0.0, "seconds": 0.06 * seconds, "tokens": 200_000},
    }
    if sweep:
        purposes["sweep"] = {"flops": sweep * flops, "seconds": sweep * seconds, "tokens": int(sweep * tokens)}
    return {"steps": steps, "peak_memory_bytes": 2_300_000_000, "purposes": purposes}, lines


def quality(nats: float, slices: bool = True) -> Examination:
    """An examination with the given loss, in two slices."""
    parts = {"prose": quality(0.97 * nats, False), "signatures": quality(1.08 * nats, False)} if slices else {}
    return Examination(nats, nats * BITS_PER_NAT, math.exp(nats), 1 / (1 + nats), 199_680, 702_000, parts)


PROMPTS = [
    (
        "Return the indices of the elements that are",
        " non-zero.\n\n    Returns\n    -------\n    out : ndarray\n        Array of indices of the elements of `a`.",
        " not the same as the given array.\n\n    Parameters\n    ----------\n    a : array_like\n        Input.",
    ),
    (
        "class Path:\n    ",
        '"""A path on the file system.\n\n    The path is relative to the current directory unless it begins with',
        '"""A base class for the path of the path that is used to the path',
    ),
    (
        "To install the package, run",
        " the following command:\n\n    pip install --upgrade\n\nThe command reads the configuration from",
        " the ``--help`` option to the command line to the command.",
    ),
]


def report_data(*, recipe_end: float = 3.93, baseline_end: float = 4.18, name: str = "") -> ReportData:
    """A recipe (pre-train, grow, continue, quantize) beside a baseline of the same compute.

    Args:
        recipe_end: nats per token at the recipe's end.
        baseline_end: the same for the baseline.
        name: put into every text that a stranger could have chosen.
    """
    small, small_lines = training(
        steps=600, tokens=2_460_000, flops=0.46e14, seconds=74, start=8.3, end=4.72, shape=0.22, seed=1
    )
    grown, grown_lines = training(
        steps=700, tokens=2_870_000, flops=1.08e14, seconds=158, start=4.75, end=recipe_end, shape=0.35, seed=2
    )
    plain, plain_lines = training(
        steps=1000,
        tokens=4_100_000,
        flops=1.55e14,
        seconds=231,
        start=8.3,
        end=baseline_end,
        shape=0.17,
        seed=3,
        sweep=0.55,
    )
    four_bit = recipe_end + 0.035
    recipe = Arm(
        f"Conda, grown{name}",
        "recipe",
        (
            StageRecord(f"small{name}", "pretrain", small, small_lines, {"parameters": 3_425_000, "note": "3 blocks"}),
            StageRecord(
                "grow",
                "grow",
                {"purposes": {"grow": {"flops": 2e6, "seconds": 0.4, "tokens": 0}}, "peak_memory_bytes": 900_000_000},
                (),
                {
                    "parameters": 5_868_000,
                    "note": f"g-stack: 3 blocks to 6{name}",
                    "quality": {"nats_per_token": 5.31, "bits_per_byte": 5.31 * BITS_PER_NAT},
                },
            ),
            StageRecord("grown", "continue", grown, grown_lines, {"parameters": 5_868_000}),
            StageRecord(
                "four_bit",
                "quantize",
                {
                    "purposes": {"calibrate": {"flops": 1.9e12, "seconds": 6.4, "tokens": 32_768}},
                    "peak_memory_bytes": 1_400_000_000,
                },
                (),
                {
                    "parameters": 5_868_000,
                    "note": "GPTQ, 4 bit, groups of 128",
                    "quality": {"nats_per_token": four_bit, "bits_per_byte": four_bit * BITS_PER_NAT},
                },
            ),
        ),
    )
    baseline = Arm(
        f"AdamW{name}",
        "baseline",
        (StageRecord("adamw", "pretrain", plain, plain_lines, {"parameters": 5_868_000, "note": "6 blocks"}),),
    )
    models = (
        ModelRow(
            f"demo{name}",
            f"runs/demo/06-export-3f9a/model{name}",
            24_310_000,
            5_868_000,
            quality(recipe_end),
            412.0,
            32.1,
            recipe.name,
            "dense",
            "bf16, compiled",
        ),
        ModelRow(
            "demo, 4 bit",
            "runs/demo/07-four_bit-90be/model",
            7_640_000,
            5_868_000,
            quality(four_bit),
            1163.0,
            9.4,
            recipe.name,
            "4-bit, groups of 128",
            "int4 kernel",
        ),
        ModelRow(
            "baseline",
            "runs/demo/05-adamw-11c0/model",
            24_310_000,
            5_868_000,
            quality(baseline_end),
            409.0,
            32.1,
            baseline.name,
            "dense",
            "bf16, compiled",
        ),
    )
    samples = tuple(
        Sample(prompt + name, {"demo": ours, "demo, 4 bit": ours[:-9] + " the given", "baseline": theirs + name}, mode)
        for mode in ("greedy", "sampled at temperature 0.8, seed 0")
        for prompt, ours, theirs in PROMPTS[: 3 if mode == "greedy" else 1]
    )
    shared = (
        StageRecord(
            "corpus",
            "corpus",
            {"purposes": {"prepare": {"flops": 0, "seconds": 21.4, "tokens": 0}}, "peak_memory_bytes": 1_100_000_000},
            (),
            {"note": f"env:docs, 46.1 MB{name}"},
        ),
        StageRecord("tokens", "tokenizer", {"purposes": {"prepare": {"flops": 0, "seconds": 13.9, "tokens": 0}}}),
    )
    return ReportData(
        title=f"demo: from real text to a 4-bit model{name}",
        arms=(recipe, baseline),
        models=models,
        samples=samples,
        shared=shared,
        recipe=RECIPE + name,
        corpus={
            "sources": {"env:docs": 31_240},
            "documents": 31_240,
            "bytes": 46_130_000,
            "duplicates removed": 5_811,
            "training tokens": 12_910_000,
            "held-out tokens": 199_680,
            "vocabulary": 4096,
            "fingerprint": "9f2c1e77a0b84d15",
        },
        machine={
            "processor": f"AMD EPYC 9B45{name}",
            "cores": 2,
            "memory_gb": 23.4,
            "accelerator": None,
            "fast_bfloat16": True,
            "python": "3.11.9",
            "torch": "2.13.0+cpu",
        },
        versions={"pomona": "0.1.0", "torch": "2.13.0+cpu", "transformers": "5.23.0", f"tokenizers{name}": "0.23.3"},
        reproduce=("git clone REPOSITORY pomona && cd pomona", "make demo"),
        notes=("One seed per arm: differences below about one percent are within the noise of a repeated run.",),
    )


RECIPE = """\
# Two cores: about 7 minutes.
title: from real text to a 4-bit model
seed: 0
stages:
  - corpus: {name: corpus, sources: ["env:docs"], near_duplicates: 0.8}
  - tokenizer: {name: tokens, vocab_size: 4096}
  - pretrain:
      name: small
      model: {hidden_size: 256, num_hidden_layers: 3, num_attention_heads: 4, intermediate_size: 704}
      optimizer: {method: conda, learning_rate: 0.01}
      schedule: {method: infinite, warmup_tokens: 100_000}
      tokens: 2_460_000
  - grow: {method: g-stack, factor: 2}
  - continue: {name: grown, tokens: 2_870_000}
  - quantize: {name: four_bit, method: gptq, bits: 4, group_size: 128}
"""

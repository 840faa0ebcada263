"""A trained model with LayerNorms against its two converted forms: the same function, and is it faster?

Findings at scale tiny: the function is the same to rounding. torch's LayerNorm is one kernel on this processor, and
RMSNorm written out is several, which costs what the smaller norm saves and a little more; against LayerNorms that are
not fused `benchmarks/norms.py` finds up to 1.3x.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pomona.evidence.assets import LENGTH, base_lm
from pomona.evidence.card import Arm, Card, Metric, Scale, Verdict
from pomona.ground.files import read_json

if TYPE_CHECKING:
    from pomona.evidence.table import Table
    from pomona.stages import Artefact

ROUNDS = 60
"""Forward passes of each model, taken in turns."""
EXACT = 1e-5
"""Largest difference of logits in float64, relative to the largest logit. Held-out losses are taken in bfloat16 where
the processor has it, which rounds to 2e-4 nats, so they cannot tell."""


def gpt2(scale: Scale) -> dict[str, Any]:
    """A decoder whose norms are LayerNorms before each part."""
    sizes: Mapping[Scale, tuple[int, int, int]] = {"tiny": (128, 4, 4), "small": (256, 6, 4), "gpu": (768, 12, 12)}
    hidden, blocks, heads = sizes[scale]
    dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return {
        "shape": "gpt2",
        "n_embd": hidden,
        "n_layer": blocks,
        "n_head": heads,
        "n_positions": LENGTH[scale],
        **dropout,
    }


def arms(scale: Scale) -> Mapping[str, Arm]:
    """The model as it was trained, and converted."""
    exam = {"tokens": 32_768, "seq_length": LENGTH[scale], "decode_tokens": 8}

    def examined(label: str) -> dict[str, Any]:
        return {"examine": {"name": "exam", "models": [label], **exam}}

    def converted(form: str) -> list[Any]:
        stage = {"convert": {"name": "model", "from": "base", "method": "pre-crmsnorm", "form": form}}
        return [*base_lm(scale, gpt2(scale), each_seed=True), stage, examined("model")]

    return {
        "LayerNorm": Arm([*base_lm(scale, gpt2(scale), each_seed=True), examined("base")], "baseline"),
        "Pre-RMSNorm": Arm(converted("rms")),
        "Pre-CRMSNorm": Arm(converted("crms")),
    }


def measure(made: Mapping[str, Artefact]) -> dict[str, float]:
    """Time of a forward pass over that of the model as it was trained, taken in turns; how far logits differ; loss."""
    import torch

    from pomona import anatomy

    (row,) = read_json(made["exam"].folder / "examination.json")["models"]
    before = anatomy.load(made["base"].folder)
    after = anatomy.load(made["model" if "model" in made else "base"].folder)
    body = anatomy.of(before)
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(body.vocab_size, (4, body.max_positions or 128), generator=draw)
    with torch.no_grad():
        ratios = in_turns(lambda: before(input_ids=ids), lambda: after(input_ids=ids))
        expected, found = (model.double()(input_ids=ids[:1]).logits for model in (before, after))
    return {
        "time": statistics.median(ratios),
        "difference": float((found - expected).abs().max() / expected.abs().max()),
        "loss": row["quality"]["nats_per_token"],
    }


def in_turns(one: Callable[[], Any], other: Callable[[], Any]) -> list[float]:
    """Seconds of `other` over those of `one`, pair by pair, after a warm-up; who is first changes from pair to pair."""
    ratios = []
    for turn in range(-5, ROUNDS):
        seconds = {}
        for call in (one, other) if turn % 2 else (other, one):
            begin = time.perf_counter()
            call()
            seconds[call] = time.perf_counter() - begin
        if turn >= 0:
            ratios.append(seconds[other] / seconds[one])
    return ratios


def judge(table: Table) -> Verdict:
    """See `CARD.rule`."""
    forms = ("Pre-RMSNorm", "Pre-CRMSNorm")
    apart = max(max(table.values(form, "difference")) for form in forms)
    slowest = {form: max(table.values(form, "time")) for form in forms}
    because = f"logits differ by at most {apart:.1g} of the largest; a forward pass takes " + " and ".join(
        f"{table.mean(form, 'time'):.2f} ({form})" for form in forms
    )
    because += " of the time with LayerNorms, whose kernel is fused"
    if apart > EXACT:
        return Verdict("not reproduced", because)
    faster = min(slowest.values()) < 1.0
    return Verdict("reproduced" if faster else "partly", because)


CARD = Card(
    slug="pre-crmsnorm",
    claim="A Pre-LN model becomes a Pre-RMSNorm or Pre-CRMSNorm model of the same function, which is faster.",
    equal="trained weights, held-out text, batch; passes are timed in turns on the same inputs.",
    rule=(
        "Reproduced: logits in float64 equal to 1e-5 of the largest, and at least one form takes less time at every "
        "seed. Partly: equal, but not faster on this machine. Else not reproduced."
    ),
    metrics=(
        Metric("time", "of a forward pass, relative to LayerNorm"),
        Metric("difference", "of logits, relative to the largest"),
        Metric("loss", "held-out nats per token"),
    ),
    arms=arms,
    measure=measure,
    judge=judge,
)

"""Images per second of a ViT-S (224 x 224, patches of 16, bf16) that keeps 138 of 197 tokens after its third block.

Scoring is part of what is timed. Beside `zero-tprune`: the dense model with transformers' kernel and with attention
written out (the faster is the peer), and the same number of tokens cut off for nothing, which bounds what any choice
can reach. Weights are random: speed does not depend on them, but for the iterations of the ranking, whose most is
shown by a row of its own.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from benchmarks.harness import ROOT, Contender, Goal, Quiet, Spread, interleave, main, ratios, save, show_goals, table
from benchmarks.meter import Meter

BATCH, KEEP, POINT = 16, 138, 2
WAYS = ("dense, sdpa", "dense, written out", "first 138 tokens", "zero-tprune", "zero-tprune, all iterations")


def model_of(*, small: bool) -> Any:
    """ViT-S in bf16, or a small one of the same form."""
    import torch
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    sizes = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "intermediate_size": 1536}
    if small:
        sizes = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64}
    return ViTForImageClassification(ViTConfig(**sizes)).eval().to(torch.bfloat16)


def accelerated(model: Any, way: str) -> AbstractContextManager[Any]:
    """The `with` block of a contender."""
    import torch

    from pomona import anatomy
    from pomona.runtime import zero_tprune
    from pomona.runtime.zero_tprune import ZeroTPruneConfig

    if way == "dense, sdpa":
        return nullcontext()
    if way == "dense, written out":
        return anatomy.use_attention(model, "explicit")
    config = ZeroTPruneConfig(points=(POINT,), keep=(KEEP,))
    if way == "zero-tprune, all iterations":
        zero_tprune.SETTLED = 0.0
    if way == "first 138 tokens":

        def first(attention: torch.Tensor, *others: Any) -> Any:
            places = torch.arange(KEEP).expand(len(attention), -1)
            return places, places[:, :0], places[:, :0]

        return zero_tprune.pruned(anatomy.of(model), config, first)
    return config.attach(model)


def classify(meter: Meter, *, way: str, batch: int, small: bool = False) -> None:
    """Batch after batch; a tick each."""
    import torch

    model = model_of(small=small)
    images = torch.randn(batch, 3, 224, 224, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    with torch.inference_mode(), accelerated(model, way):
        while True:
            model(pixel_values=images)
            meter.tick()


def run(*, quick: bool = False) -> None:
    """Measure and print."""
    batch = 2 if quick else BATCH
    protocol = {"rounds": 2 if quick else 7, "ticks_per_round": 2 if quick else 4, "warmup_ticks": 2}
    contenders = [
        Contender(way, "benchmarks.token_pruning:classify", {"way": way, "batch": batch, "small": quick})
        for way in WAYS
    ]  # fmt: skip
    with Quiet() as quiet:
        rounds = interleave(contenders, **protocol)
    rates = {way: [batch * event["ticks"] / event["seconds"] for event in events] for way, events in rounds.items()}
    peer = max(WAYS[:2], key=lambda way: Spread.of(rates[way]).median)
    rows = [
        (way, Spread.of(values).show(".1f"), ratios(values, rates[peer]).show(".3f", "x"))
        for way, values in rates.items()
    ]
    table(
        f"ViT-S, {KEEP} of 197 tokens after block {POINT + 1}, bf16, batches of {batch}",
        ["", "images/s", f"against {peer}"],
        rows,
        f"median (range) of {protocol['rounds']} rounds; scoring included",
    )
    goals = [Goal(f"zero-tprune against {peer}", ratios(rates["zero-tprune"], rates[peer]).median, 1.25)]
    show_goals(goals)
    save(
        "token_pruning",
        config={**protocol, "batch": batch, "keep": KEEP, "point": POINT},
        measured={"images_per_second": rates, "machine_use": quiet.facts()},
        goals=goals,
        code=[Path(__file__), ROOT / "pomona/runtime/zero_tprune.py"],
        quick=quick,
    )


if __name__ == "__main__":
    main(run, __doc__)

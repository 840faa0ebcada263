"""A step of LoRA and other adapters: GPT-2-small shape, 4 x 256 tokens, bf16, rank 8 on the fused query, key and value.

Held equal: the model (124 M parameters), batch, precision, clipping, AdamW; for LoRA and DyLoRA what is trained.
The peer is peft in a plain loop: autocast, fused AdamW. Tokens are random.
"""

from __future__ import annotations

import resource
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.harness import (
    ROOT,
    Contender,
    Goal,
    Quiet,
    Spread,
    interleave,
    main,
    ratios,
    save,
    show_goals,
    table,
)
from benchmarks.meter import Meter

if TYPE_CHECKING:
    import torch
    from transformers import GPT2LMHeadModel

SEQUENCES, CONTEXT, RANK = 4, 256, 8
PEER = Contender("peft, plain loop", "benchmarks.adapters:plain_peft")
OURS = [
    Contender("pomona, lora", "benchmarks.adapters:engine", {"method": "lora", "targets": ["query"], "rank": RANK}),
    Contender("pomona, dylora", "benchmarks.adapters:engine", {"method": "dylora", "rank_max": RANK}),
    Contender("pomona, svfit", "benchmarks.adapters:engine", {"method": "svfit"}),
    Contender("pomona, meft", "benchmarks.adapters:engine", {"method": "meft"}),
]


def model_of(blocks: int = 12) -> GPT2LMHeadModel:
    """GPT-2 small with random weights, without dropout."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return GPT2LMHeadModel(GPT2Config(n_layer=blocks, n_positions=CONTEXT, **dropout)).train()


def rows_of(step: int) -> torch.Tensor:
    """(B, T+1) random tokens."""
    import torch

    return torch.randint(50257, (SEQUENCES, CONTEXT + 1), generator=torch.Generator().manual_seed(step % 16))


def plain_peft(meter: Meter) -> None:
    """peft's LoRA in a loop as its documentation shows it, with autocast and clipping; a tick each step."""
    import peft
    import torch
    from torch.nn import functional

    settings = peft.LoraConfig(r=RANK, lora_alpha=16, target_modules=["c_attn"], fan_in_fan_out=True)
    model = peft.get_peft_model(model_of(), settings)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)
    step = 0
    while True:
        rows = rows_of(step)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(input_ids=rows[:, :-1], use_cache=False).logits
            loss = functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        meter.note(peak=peak_bytes())
        meter.tick()


def engine(meter: Meter, *, method: str, **settings: Any) -> None:
    """The same by `pomona.engine.fit`, with one of pomona's adapters."""
    from pomona import anatomy
    from pomona.catalog import MethodOf
    from pomona.engine import FitConfig, fit
    from pomona.objectives.next_token import NextTokenConfig
    from pomona.optimizers.adamw import AdamwConfig

    class Stream:
        """Random tokens by the step."""

        def batch(self, step: int, rank: int = 0, *, micro_batches: int = 1) -> list[dict[str, Any]]:
            return [{"tokens": rows_of(step)}]

    model = model_of()
    config: Any = MethodOf("adapter").validate({"method": method, **settings})
    adapter = config.attach_(anatomy.of(model))
    objective, stream = adapter.taught(NextTokenConfig().build(None), Stream(), 0)
    optimizer = AdamwConfig(learning_rate=1e-4).build(anatomy.of(model), total_steps=1_000_000)

    def done(*_: Any) -> None:
        meter.note(peak=peak_bytes())
        meter.tick()

    optimizer.register_step_post_hook(done)
    run = FitConfig(precision="bf16", compile="never")
    fit(model, objective, stream, optimizer, lambda step: 1.0, steps=1_000_000, config=run)


def peak_bytes() -> float:
    """The most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


def run(*, quick: bool = False) -> None:
    """Measure and print."""
    protocol = {"rounds": 2 if quick else 5, "ticks_per_round": 1 if quick else 2, "warmup_ticks": 3}
    contenders = [PEER, *(OURS[:2] if quick else OURS)]
    with Quiet() as quiet:
        rounds = interleave(contenders, **protocol)
    seconds = {name: [event["seconds"] / event["ticks"] for event in events] for name, events in rounds.items()}
    peaks = {name: [event["peak"] for event in events] for name, events in rounds.items()}
    base = seconds[PEER.name]
    rows = [
        (
            name,
            Spread.of(values).scaled(1e3).show(".0f", " ms"),
            ratios(base, values).show(".2f", "x"),
            Spread.of(peaks[name]).scaled(1e-6).show(".0f", " MB"),
        )
        for name, values in seconds.items()
    ]
    note = f"median (range) of {protocol['rounds']} rounds of {protocol['ticks_per_round']} steps; above 1x is faster"
    table("a step of adapters: GPT-2 small, 4 x 256 tokens, bf16", ["", "time", "against peft", "peak"], rows, note)
    goals = [Goal("LoRA against peft's plain loop", ratios(base, seconds[OURS[0].name]).median, 1.8)]
    for contender in contenders[1:]:
        if contender.name != "pomona, meft":  # it trades time for memory
            goals.append(Goal(f"{contender.name}, speed", ratios(base, seconds[contender.name]).median, 1.0))
        goals.append(Goal(f"{contender.name}, memory", ratios(peaks[PEER.name], peaks[contender.name]).median, 1.0))
    show_goals(goals)
    save(
        "adapters",
        config={**protocol, "sequences": SEQUENCES, "context": CONTEXT, "rank": RANK},
        measured={"seconds": seconds, "peak_bytes": peaks, "machine_use": quiet.facts()},
        goals=goals,
        code=[Path(__file__), *sorted((ROOT / "pomona/adapters").glob("*.py"))],
        quick=quick,
    )


if __name__ == "__main__":
    main(run, __doc__)

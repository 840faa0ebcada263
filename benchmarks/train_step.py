"""Training throughput on the reference model, bf16, 16 x 256 tokens per step.

Held equal: the model (5.9 M parameters, Llama-shaped, tied embedding) and so its FLOPs, batch, precision, clipping.
Tokens are random: nothing here depends on what they say.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks import gemm, ours
from benchmarks.harness import Contender, Goal, Spread, interleave, main, ratios, save, show_goals, table
from benchmarks.peers import plain_loop, trainer
from benchmarks.shapes import SHAPES

TRAINER = Contender("HF Trainer, bf16", "benchmarks.peers.trainer:train_step")
PLAIN = Contender("plain loop, compiled", "benchmarks.peers.plain_loop:train_step")
TUNED = Contender(
    "  the same, allocator tuned",
    "benchmarks.peers.plain_loop:train_step",
    environment={"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)},
)
"""What a user gets who knows of glibc's habit to return large blocks to the kernel: shown, as the strongest peer."""
OURS = [
    Contender("pomona, AdamW", "benchmarks.ours:train_step", {"optimizer": "adamw"}),
    Contender("pomona, Muon", "benchmarks.ours:train_step", {"optimizer": "muon"}),
    Contender("pomona, Conda", "benchmarks.ours:train_step", {"optimizer": "conda"}),
    Contender("pomona, Sophia", "benchmarks.ours:train_step", {"optimizer": "sophia"}),
]
GEMM = Contender("bf16 matrix product", "benchmarks.gemm:rate")


def run(*, quick: bool = False, only_peers: bool = False) -> None:
    """Measure and print."""
    shape = SHAPES["reference"]
    protocol = {"rounds": 2 if quick else 7, "ticks_per_round": 4 if quick else 10, "warmup_ticks": 8}
    contenders = [TRAINER, PLAIN, TUNED, *([] if only_peers else OURS)]
    rounds = interleave([GEMM, *contenders], **protocol)

    peaks = [event["flops_per_second"] for event in rounds[GEMM.name]]
    speeds = {
        contender.name: [
            event["ticks"] * shape.sequences * shape.context / event["seconds"] for event in rounds[contender.name]
        ]
        for contender in contenders
    }
    rows = []
    for name, values in speeds.items():
        share = ratios([value * shape.flops_per_token for value in values], peaks)
        rows.append(
            (
                name,
                Spread.of(values).show(",.0f"),
                ratios(values, speeds[TRAINER.name]).show(".2f", "x"),
                ratios(values, speeds[PLAIN.name]).show(".2f", "x"),
                f"{ratios(values, speeds[TUNED.name]).median:.2f}x",
                f"{share.median:.0%}",
            )
        )
    table(
        "training step: 5.9 M parameters, 16 x 256 tokens, bf16",
        ["", "tokens/s", "vs Trainer", "vs plain", "vs tuned", "of GEMM"],
        rows,
        f"bf16 GEMM {Spread.of(peaks).scaled(1e-9).show('.0f')} GFLOP/s; median (range), {len(peaks)} rounds",
    )
    goals = []
    if not only_peers:
        best = speeds[OURS[0].name]
        share = ratios([value * shape.flops_per_token for value in best], peaks)
        goals = [
            Goal("AdamW against HF Trainer", ratios(best, speeds[TRAINER.name]).median, 1.8),
            Goal("AdamW against the plain loop", ratios(best, speeds[PLAIN.name]).median, 1.35),
            Goal("AdamW, share of the GEMM rate", 100 * share.median, 60, unit="%"),
            # At most 12 % longer. A round has as many steps as Sophia makes from one estimate of curvature to the next.
            *(Goal(f"{each.name} against AdamW", ratios(speeds[each.name], best).median, 0.89) for each in OURS[2:]),
        ]
        show_goals(goals)
    save(
        "train_step",
        config={**protocol, "shape": "reference", "flops_per_token": shape.flops_per_token},
        measured={"tokens_per_second": speeds, "gemm_flops_per_second": peaks},
        goals=goals,
        code=[Path(__file__), *(Path(module.__file__) for module in (gemm, ours, plain_loop, trainer))],
        quick=quick,
    )


if __name__ == "__main__":
    main(run, __doc__)

"""Attention of a prompt of 32k tokens on a processor: sparse shapes of `minference` against torch's dense kernel.

Four heads of 64 features. Queries and keys have a mean and rotary positions, which is where the slashes of trained
heads come from, and a few keys that every query looks at. Index building is part of what is timed. The peer is the
faster of torch's fused attention in float32 and in bf16. Two errors (relative, Frobenius) are shown: from dense
attention, which is the shape's and depends on what heads look at, and from the same mask in float32, the kernel's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.harness import ROOT, Contender, Goal, Quiet, Spread, interleave, main, ratios, save, show_goals, table
from benchmarks.meter import Meter

TOKENS, HEADS, WIDTH = 32_768, 4, 64
SHAPES: dict[str, tuple[dict[str, Any], float]] = {
    "a_shape 256 + 1024": ({"shape": "a_shape", "initial": 256, "local": 1024}, 13.0),
    "a_shape 1024 + 4096": ({"shape": "a_shape", "initial": 1024, "local": 4096}, 0.0),
    "vertical_slash 125, 375": ({"shape": "vertical_slash", "vertical": 125, "slash": 375}, 0.0),
    "vertical_slash 250, 1524": ({"shape": "vertical_slash", "vertical": 250, "slash": 1524}, 9.0),
    "vertical_slash 1000, 6096": ({"shape": "vertical_slash", "vertical": 1000, "slash": 6096}, 0.0),
    "block_sparse 25": ({"shape": "block_sparse", "blocks": 25}, 0.0),
}
"""Shapes with the paper's budgets for 128k tokens, whole and in proportion to 32k, and goals."""


def heads(tokens: int) -> tuple[Any, Any, Any]:
    """(HEADS, tokens, WIDTH) float32 queries, keys and values."""
    import torch

    draw = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(HEADS, tokens, WIDTH, generator=draw) for _ in range(3))
    mean = 1.5 * torch.randn(HEADS, 1, WIDTH, generator=draw)
    sinks = torch.randint(tokens, (HEADS, 40), generator=draw)
    query, key = query + mean, key + mean
    frequencies = 10_000.0 ** (-torch.arange(0, WIDTH, 2) / WIDTH)
    angles = torch.arange(tokens)[:, None] * frequencies
    cosine, sine = angles.cos(), angles.sin()

    def turned(x: torch.Tensor) -> torch.Tensor:
        left, right = x.chunk(2, -1)
        return torch.cat([left * cosine - right * sine, right * cosine + left * sine], -1)

    query, key = turned(query), turned(key)
    for head in range(HEADS):
        key[head, sinks[head]] += 0.6 * query[head].mean(0)
    return query, key, value


def attention(meter: Meter, *, shape: dict[str, Any] | None, dtype: str, tokens: int) -> None:
    """The attention of the prompt, again and again; a tick each."""
    import torch

    number = getattr(torch, dtype)
    query, key, value = (each.to(number) for each in heads(tokens))
    if shape is None:
        while True:
            torch.nn.functional.scaled_dot_product_attention(query[None], key[None], value[None], is_causal=True)
            meter.tick()
    pattern = pattern_of(shape)
    while True:
        sparse(pattern, query, key, value)
        meter.tick()


def pattern_of(shape: dict[str, Any]) -> Any:
    """The shape as the method has it."""
    from pydantic import TypeAdapter

    from pomona.runtime.sparse_patterns import Pattern

    return TypeAdapter(Pattern).validate_python(shape)


def sparse(pattern: Any, query: Any, key: Any, value: Any) -> Any:
    """Index and attention."""
    from pomona.runtime.sparse_attention import sparse_attention

    kept = [pattern.find(query[head], key[head], WIDTH**-0.5) for head in range(HEADS)]
    return sparse_attention(query, key, value, kept, WIDTH**-0.5)


def masked_rows(query: Any, key: Any, value: Any, seen: Any) -> Any:
    """The definition for some queries of a head, in float32."""
    scores = (query.float() @ key.float().T * WIDTH**-0.5).masked_fill(~seen, float("-inf"))
    return scores.softmax(-1) @ value.float()


def errors(tokens: int) -> dict[str, dict[str, float]]:
    """What each shape keeps and loses, and what the kernel adds to it (both of some rows of the first head)."""
    import torch

    query, key, value = heads(tokens)
    short = [each.bfloat16() for each in (query, key, value)]
    dense = torch.nn.functional.scaled_dot_product_attention(query[None], key[None], value[None], is_causal=True)[0]
    found = {}
    for name, (shape, _) in SHAPES.items():
        pattern = pattern_of(shape)
        kept = [pattern.find(short[0][head], short[1][head], WIDTH**-0.5) for head in range(HEADS)]
        made = sparse(pattern, *short).float()
        some = [slice(start, start + 128) for start in range(0, tokens, max(tokens // 16, 128))]
        masks = [kept[0].mask(rows) for rows in some]
        masked = torch.cat(
            [masked_rows(short[0][0, r], short[1][0], short[2][0], m) for r, m in zip(some, masks, strict=True)]
        )
        own = torch.cat([made[0, rows] for rows in some])
        causal = sum(sum(range(rows.start + 1, rows.stop + 1)) for rows in some)
        tiles = (tokens // 64) * (tokens // 64 + 1) / 2
        found[name] = {
            "kept": sum(int(mask.sum()) for mask in masks) / causal,
            "tiles": sum(one.cost() for one in kept) / HEADS / tiles,
            "shape": float((made - dense).norm() / dense.norm()),
            "kernel": float((own - masked).norm() / masked.norm()),
        }
    return found


def run(*, quick: bool = False) -> None:
    """Measure and print."""
    tokens = 1024 if quick else TOKENS
    protocol = {"rounds": 2 if quick else 5, "ticks_per_round": 1, "warmup_ticks": 1}
    target = "benchmarks.sparse_prefill:attention"
    dense = {f"dense, {dtype}": {"shape": None, "dtype": dtype} for dtype in ("float32", "bfloat16")}
    sparse_ones = {name: {"shape": shape, "dtype": "bfloat16"} for name, (shape, _) in SHAPES.items()}
    contenders = [
        Contender(name, target, {**options, "tokens": tokens}) for name, options in {**dense, **sparse_ones}.items()
    ]
    with Quiet() as quiet:
        rounds = interleave(contenders, **protocol)
    seconds = {name: [event["seconds"] / event["ticks"] for event in events] for name, events in rounds.items()}
    peer = min(("dense, float32", "dense, bfloat16"), key=lambda name: Spread.of(seconds[name]).median)
    found = errors(tokens)
    rows, goals = [], []
    for name, values in seconds.items():
        facts = found.get(name)
        shown = (
            ("",) * 4 if facts is None else tuple(f"{facts[key]:.2g}" for key in ("kept", "tiles", "shape", "kernel"))
        )
        speed = ratios(seconds[peer], values)
        rows.append((name, Spread.of(values).scaled(1e3).show(".0f", " ms"), speed.show(".1f", "x"), *shown))
        if name in SHAPES and SHAPES[name][1]:
            goals.append(Goal(f"{name} against {peer}", speed.median, SHAPES[name][1]))
    table(
        f"attention of {tokens:,} tokens, {HEADS} heads of {WIDTH}",
        ["", "time", f"against {peer}", "pairs", "tiles", "off dense", "off mask"],
        rows,
        f"median (range) of {protocol['rounds']} rounds, index included; shares of the causal pairs and tiles; errors",
    )
    show_goals(goals)
    code = [ROOT / "pomona/runtime" / name for name in ("sparse.cpp", "sparse_attention.py", "sparse_patterns.py")]
    save(
        "sparse_prefill",
        config={**protocol, "tokens": tokens, "heads": HEADS, "width": WIDTH},
        measured={"seconds": seconds, "errors": found, "machine_use": quiet.facts()},
        goals=goals,
        code=[Path(__file__), *code],
        quick=quick,
    )


if __name__ == "__main__":
    main(run, __doc__)

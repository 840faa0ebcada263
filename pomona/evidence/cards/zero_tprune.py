"""Which tokens of a trained vision transformer can go: choices at equal FLOPs, without training after pruning.

The pictures are digits of a small font, whole patches apart, on a cluttered canvas: most patches are background of many
looks, and a few steps of training are enough.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pomona.evidence.card import Arm, Metric, Scale, Verdict
from pomona.evidence.direct import DirectCard

if TYPE_CHECKING:
    from torch import Tensor

    from pomona.evidence.table import Table

ARMS = ("all tokens", "random", "class attention", "mean attention", "merging", "without S", "without I", "Zero-TPrune")
SHARES = (0.65, 0.5)
"""FLOPs that remain."""
SIDE, PATCH, STEPS, BATCH, HELD_OUT = 40, 4, 250, 48, 1000
FONT = (
    "01110 10001 10011 10101 11001 10001 01110", "00100 01100 00100 00100 00100 00100 01110",
    "01110 10001 00001 00010 00100 01000 11111", "11111 00010 00100 00010 00001 10001 01110",
    "00010 00110 01010 10010 11111 00010 00010", "11111 10000 11110 00001 00001 10001 01110",
    "00110 01000 10000 11110 10001 10001 01110", "11111 00001 00010 00100 01000 01000 01000",
    "01110 10001 10001 01110 10001 10001 01110", "01110 10001 10001 01111 00001 00010 01100",
)  # fmt: skip
"""Digits of five by seven pixels."""


def arms(scale: Scale) -> Mapping[str, Arm]:
    """Ways to choose; the vision transformer is trained from the seed, once for all of them."""

    def role(name: str) -> Any:
        if name.startswith("Zero"):
            return "method"
        return "reference" if name in ("all tokens", "without S", "without I") else "baseline"

    return {name: Arm([], role(name)) for name in ARMS}


def attempt(scale: Scale, arm: str, seed: int, folder: Path) -> dict[str, float]:
    """Accuracy lost at both shares of the FLOPs, in points."""
    model = trained(seed)
    images, labels = pictures(HELD_OUT, seed + 1)
    whole = accuracy(model, images, labels)
    lost = {share: 100 * (whole - accuracy(model, images, labels, arm, share, seed)) for share in SHARES}
    return {**{f"lost at {share:.0%}": value for share, value in lost.items()}, "accuracy of all": 100 * whole}


def pictures(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """(count, 3, SIDE, SIDE) canvases and the digit on each."""
    import torch

    draw = torch.Generator().manual_seed(seed)

    def number(most: int, least: int = 0) -> int:
        return int(torch.randint(least, most, (1,), generator=draw))

    digits = torch.tensor([[[int(bit) for bit in row] for row in digit.split()] for digit in FONT], dtype=torch.float)
    labels = torch.randint(10, (count,), generator=draw)
    canvas = 0.25 * torch.randn(count, 3, SIDE // 8, SIDE // 8, generator=draw)
    canvas = torch.nn.functional.interpolate(canvas, size=(SIDE, SIDE), mode="bilinear")
    canvas += 0.1 * torch.randn(count, 3, SIDE, SIDE, generator=draw)
    for index in range(count):
        for _ in range(4):  # bars of any colour
            long, thin = number(14, 4), number(3, 1)
            high, wide = (long, thin) if number(2) else (thin, long)
            top, left = number(SIDE - high), number(SIDE - wide)
            canvas[index, :, top : top + high, left : left + wide] = torch.randn(3, 1, 1, generator=draw)
        glyph = digits[labels[index]].repeat_interleave(2, 0).repeat_interleave(2, 1)
        top, left = PATCH * number((SIDE - 14) // PATCH + 1), PATCH * number((SIDE - 10) // PATCH + 1)
        place = canvas[index, :, top : top + glyph.shape[0], left : left + glyph.shape[1]]
        place[:, glyph > 0] = 1.5
    return canvas, labels


@cache
def trained(seed: int) -> Any:
    """A ViT of six blocks and 64 features, trained on fresh pictures; the same for all arms of a seed."""
    import torch
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(seed)
    config = ViTConfig(
        image_size=SIDE, patch_size=PATCH, hidden_size=64, num_hidden_layers=6, num_attention_heads=4,
        intermediate_size=192, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, num_labels=10,
    )  # fmt: skip
    model = ViTForImageClassification(config)
    images, labels = pictures(6000, seed + 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=STEPS)
    draw = torch.Generator().manual_seed(seed)
    for _ in range(STEPS):
        rows = torch.randint(len(images), (BATCH,), generator=draw)
        loss = torch.nn.functional.cross_entropy(model(pixel_values=images[rows]).logits, labels[rows])
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
    return model.eval()


def accuracy(
    model: Any, images: Tensor, labels: Tensor, name: str = "all tokens", share: float = 1.0, seed: int = 0
) -> float:
    """Share of pictures classified right while tokens go as an arm chooses."""
    from contextlib import nullcontext

    import torch

    from pomona import anatomy
    from pomona.runtime.zero_tprune import ZeroTPruneConfig, pruned

    changes: Mapping[str, Any] = {
        "merging": {"similar": 1.0, "partition": "alternate", "merge": True},
        "without S": {"similar": 0.0},
        "without I": {"similar": 1.0},
    }
    config = ZeroTPruneConfig.model_validate({"flops": share, **changes.get(name, {})})
    choose = chooser(name, seed)
    body, right = anatomy.of(model), 0
    if name == "all tokens":
        running: Any = nullcontext()
    else:
        running = pruned(body, config, choose) if choose else config.attach(body)
    with torch.no_grad(), running:
        for start in range(0, len(images), 100):
            logits = model(pixel_values=images[start : start + 100]).logits
            right += int((logits.argmax(-1) == labels[start : start + 100]).sum())
    return right / len(images)


def chooser(name: str, seed: int) -> Any:
    """The plain choices: chance, what the class token looks at, what all tokens look at."""
    import torch

    draw = torch.Generator().manual_seed(seed)

    def choose(attention: Tensor, features: Tensor, own: int, keep: int, *others: Any) -> Any:
        batch, _, tokens, _ = attention.shape
        scores = {
            "random": lambda: torch.rand(batch, tokens, generator=draw),
            "class attention": lambda: attention[:, :, 0].mean(1),
            "mean attention": lambda: attention.mean((1, 2)),
        }[name]()
        scores[:, :own] = torch.inf
        places = scores.topk(keep, -1).indices.sort(-1).values
        return places, places[:, :0], places[:, :0]

    return choose if name in ("random", "class attention", "mean attention") else None


def judge(table: Table) -> Verdict:
    """See `CARD.rule`."""
    lost = {name: (table.mean(name, "lost at 65%") + table.mean(name, "lost at 50%")) / 2 for name in ARMS}
    because = "points of accuracy lost, mean of 65 and 50 % of the FLOPs: " + ", ".join(
        f"{name} {lost[name]:.1f}" for name in ARMS if name != "all tokens"
    )
    ours = lost["Zero-TPrune"]
    if ours <= 2.0 and lost["random"] - ours >= 5.0 and ours < max(lost["class attention"], lost["merging"]):
        return Verdict("reproduced", because)
    return Verdict("partly" if ours < min(lost["random"], lost["mean attention"]) else "not reproduced", because)


CARD = DirectCard(
    slug="zero-tprune",
    claim="Tokens chosen by rank on the attention graph and by similarity can go without training, at little loss.",
    equal="model, pictures, places of pruning, tokens and so FLOPs at each; no arm trains after pruning.",
    rule=(
        "Reproduced: over 65 and 50 % of the FLOPs at most 2 points are lost in the mean, at least 5 fewer than by "
        "chance, and fewer than by class attention or by merging. Partly: fewer than by chance and by mean attention. "
        "Else not reproduced."
    ),
    metrics=(
        Metric("lost at 65%", "points of accuracy, at 65 % of the FLOPs"),
        Metric("lost at 50%", "points of accuracy, at 50 % of the FLOPs"),
        Metric("accuracy of all", "per cent, with all tokens", "higher"),
    ),
    arms=arms,
    attempt=attempt,
    judge=judge,
)

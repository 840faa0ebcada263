"""Two reversible streams against adapters that store activations: accuracy, and bytes that are kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pomona.evidence.assets import task
from pomona.evidence.card import Arm, Card, Metric, Scale, Verdict

if TYPE_CHECKING:
    from pomona.evidence.table import Table
    from pomona.stages import Artefact

DEPTHS = (4, 8, 16)
RATES = (2e-3, 8e-3)


def arms(scale: Scale) -> Mapping[str, Arm]:
    """Full fine-tuning, LoRA, both variants, and variant 1 from a start that is destroyed."""
    return {
        "full": Arm(task(scale, "adapted", (3e-4, 1e-3), method="full"), "reference"),
        "lora": Arm(task(scale, "adapted", RATES, method="lora", rank=8), "baseline"),
        "meft-1": Arm(task(scale, "adapted", RATES, method="meft", variant=1, bottleneck=16)),
        "meft-2": Arm(task(scale, "adapted", RATES, method="meft", variant=2, bottleneck=16)),
        "far start": Arm(task(scale, "adapted", RATES, method="meft", variant=1, bottleneck=16, std=1.0), "reference"),
    }


def measure(made: Mapping[str, Artefact]) -> dict[str, float]:
    """Accuracy, and megabytes that one pass of a random encoder keeps at each depth, by the arm's method."""
    from pomona.stages.adapt import AdaptStage

    facts = made["adapted"].facts
    stage = AdaptStage.model_validate(facts["stage"]["values"] | {"steps": 1})
    kept = {f"kept, {depth} blocks": kept_megabytes(stage.method, depth) for depth in DEPTHS}
    return {"accuracy": facts["accuracy"], **kept}


def kept_megabytes(method: object, blocks: int) -> float:
    """What autograd stores of one pass of a small BERT of this depth, 16 x 128 tokens, without the weights."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    from pomona import anatomy
    from pomona.tasks.classifier import head_of

    config = BertConfig(
        vocab_size=256,
        hidden_size=128,
        num_hidden_layers=blocks,
        num_attention_heads=4,
        intermediate_size=512,
        max_position_embeddings=128,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    model = BertForSequenceClassification(config).train()
    method.attach_(anatomy.of(model), head=head_of(model))  # type: ignore[attr-defined]
    known = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in known:
            kept.setdefault(place, tensor)  # kept alive, so that its place is not taken by another
        return tensor

    ids = torch.arange(16 * 128).reshape(16, 128) % 256
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model(input_ids=ids, labels=torch.zeros(16, dtype=torch.int64)).loss
    del loss
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values()) / 1e6


def judge(table: Table) -> Verdict:
    """See `CARD.rule`."""
    best = max(("meft-1", "meft-2"), key=lambda arm: table.mean(arm, "accuracy"))
    gap = table.against(best, "lora", "accuracy").mean
    destroyed = table.against("far start", "meft-1", "accuracy").mean
    deep = f"kept, {DEPTHS[-1]} blocks"
    share = table.mean("meft-1", deep) / table.mean("full", deep)
    growth = table.mean("meft-1", deep) / table.mean("meft-1", f"kept, {DEPTHS[0]} blocks")
    because = (
        f"{best} is {100 * gap:+.1f} points from LoRA; at {DEPTHS[-1]} blocks MEFT keeps {share:.0%} of what full "
        f"fine-tuning keeps, {growth:.2f} times that at {DEPTHS[0]}; a far start changes {100 * destroyed:+.1f} points"
    )
    saves = share <= 0.3 and growth <= 2.0
    if saves and gap >= -0.02 and destroyed <= -0.03:
        return Verdict("reproduced", because)
    return Verdict("not reproduced" if not saves or gap < -0.04 else "partly", because)


CARD = Card(
    slug="meft",
    claim="A reversible model with adapters stores hardly any activation and learns as well as adapters that do.",
    equal="model, data and their order, steps, batch, as many learning rates in each sweep; the head's rate.",
    rule=(
        "Reproduced: at 16 blocks at most 30 % of the stored activations of full fine-tuning and at most twice those "
        "at 4 blocks (anchors every 6 grow slowly), the better variant at most 2 points below LoRA, and a destroyed "
        "start at least 3 points worse. Else not reproduced where memory fails or more than 4 points are lost; partly "
        "in between."
    ),
    metrics=(
        Metric("accuracy", "share of test docstrings", "higher"),
        *(Metric(f"kept, {depth} blocks", "MB for the backward pass") for depth in DEPTHS),
    ),
    arms=arms,
    measure=measure,
    judge=judge,
)

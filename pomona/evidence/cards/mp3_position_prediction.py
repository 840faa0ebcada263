"""Position prediction before fine-tuning an encoder of pictures with few labels, against fine-tuning it for as long.

The paper pre-trains vision transformers on the pictures that they are then tuned on, and compares with the same encoder
from a random start. Here the pictures are letters and digits that are drawn: all that are not held out are there to
learn positions from, some of each sign have a label. A small encoder is far from done when tuning ends, so a start that
only saves steps would look like a better one: the untrained encoder is tuned on as many more pictures as the other has
seen before. Beside it stands one that is tuned no longer than the other.

Findings at scale tiny: against an encoder that is tuned for as many steps, 16.6 points are gained, with other amounts
at each seed (p = 0.1); against one that is tuned for as long in all, nothing. What pre-training buys here is steps.

Text goes through the same objective, with tokens as `data`. The paper claims nothing about it; it is not measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pomona.evidence.assets import DATA_SEED
from pomona.evidence.card import Arm, Card, Metric, Scale, Verdict

if TYPE_CHECKING:
    from pomona.evidence.table import Table
    from pomona.stages import Artefact

SHOTS = 40
"""Pictures of each sign whose label is known."""
PRETRAINING, TUNING, BATCH = 400, 1200, 32
"""Steps at scale tiny, and pictures of a step of tuning; one of pre-training has twice as many."""
FACTOR: Mapping[Scale, int] = {"tiny": 1, "small": 5, "gpu": 50}
"""How many times as long, and as many unlabelled pictures, at a scale."""
SIZES: Mapping[Scale, tuple[int, int, int]] = {"tiny": (64, 2, 4), "small": (128, 4, 4), "gpu": (384, 12, 6)}
"""Width, blocks and heads."""


def pictures(scale: Scale, name: str, **more: Any) -> dict[str, Any]:
    """Letters and digits of 16 pixels; whatever `more` says, the same ones are held out."""
    sides = {"validation": 0.05, "test": 0.15, "seed": DATA_SEED}
    glyphs = {"source": "env:glyphs", "size": 16, "channels": 1, "count": 8000 * FACTOR[scale]}
    return {"images": {"name": name, **glyphs, **sides, **more}}


def encoder(scale: Scale) -> dict[str, Any]:
    """A vision transformer that cuts a picture into 16 patches."""
    hidden, blocks, heads = SIZES[scale]
    sizes = {"hidden_size": hidden, "num_hidden_layers": blocks, "num_attention_heads": heads}
    return {"shape": "vit", "patch_size": 4, "intermediate_size": 3 * hidden, **sizes}


def tuned(scale: Scale, pretraining: int, tuning: int) -> list[Any]:
    """An encoder `model` that has learnt positions for so many steps, and `tuned` to the labels, each at one of two
    rates."""
    optimizer = {"method": "adamw", "weight_decay": 0.05}
    common = {"optimizer": optimizer, "schedule": {"method": "warmup-cosine", "warmup": 0.1, "min_ratio": 0.05}}
    learning = {
        "name": "model",
        "data": "unlabelled",
        "model": encoder(scale),
        "objective": {"method": "mp3-position-prediction", "eta": 0.5},
        "sweep": {"learning_rate": [0.002, 0.004], "pilot": 0.2},
        "batch_size": 2 * BATCH,
        "steps": pretraining,
    }
    tuning_ = {
        "name": "tuned",
        "from": "model",
        "examples": "labelled",
        "sweep": {"learning_rate": [0.001, 0.002], "pilot": 0.2},
        "batch_size": BATCH,
        "steps": tuning,
    }
    data = [pictures(scale, "unlabelled"), pictures(scale, "labelled", shots=SHOTS)]
    return [*data, {"pretrain": {**learning, **common}}, {"adapt": {**tuning_, **common}}]


def arms(scale: Scale) -> Mapping[str, Arm]:
    """An encoder that has learnt positions, and one that has not (a single step): tuned for as long in all, and for as
    long after it."""
    before, after = PRETRAINING * FACTOR[scale], TUNING * FACTOR[scale]
    return {
        "untrained": Arm(tuned(scale, 1, after + 2 * before), "baseline"),
        "positions": Arm(tuned(scale, before, after), "method"),
        "untrained, no longer": Arm(tuned(scale, 1, after), "reference"),
    }


def measure(made: Mapping[str, Artefact]) -> dict[str, float]:
    """Accuracy on held-out pictures after tuning, and of the places of patches before it."""
    facts = made["tuned"].facts
    places = made["model"].facts["quality"]["accuracy"]
    return {"accuracy": 100 * facts["accuracy"], "macro-F1": 100 * facts["macro_f1"], "places": 100 * places}


def judge(table: Table) -> Verdict:
    """See `CARD.rule`."""
    gain = table.against("positions", "untrained", "accuracy")
    start = table.against("positions", "untrained, no longer", "accuracy")
    because = (
        f"tuned on few labels, the encoder that has learnt positions is {gain.mean:+.1f} points from one that is tuned "
        f"for as long in all (p = {gain.p:.2g}) and {start.mean:+.1f} from one that is tuned for as many steps"
    )
    if gain.mean >= 2 and gain.low > 0:
        return Verdict("reproduced", because)
    return Verdict("partly" if start.mean >= 2 and start.low > 0 else "not reproduced", because)


CARD = Card(
    slug="mp3-position-prediction",
    claim="Trained to tell where patches came from, an encoder is better to fine-tune than from a random start.",
    equal="encoder, pictures, labels, two rates tried in each phase; pictures seen over both (the reference: fewer).",
    rule=(
        "Reproduced: accuracy at least two points above the untrained encoder that is tuned for as long in all, the "
        "95 % interval of the difference above 0. Partly: the same above the one that is tuned for as many steps. Else "
        "not reproduced."
    ),
    metrics=(
        Metric("accuracy", "% of held-out pictures, 36 signs", better="higher"),
        Metric("macro-F1", "% over the signs", better="higher"),
        Metric("places", "% of held-out patches", better="higher"),
    ),
    arms=arms,
    measure=measure,
    judge=judge,
)

"""Position prediction before fine-tuning an encoder of text, against no training and against masked language modelling.

The paper is about images and speech; on text it reports nothing, so this is an exploration of the claim that a network
which has learnt where tokens belong is a better start than a random one. Images go through the same objective
(`pomona.data.ImageStream`), but no stage of a recipe reads them yet, and an arm is a recipe.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pomona.evidence.assets import ENCODER_LENGTH, TUNINGS, trained_encoder, tuned_on_packages
from pomona.evidence.card import Arm, Card, Metric, Role, Scale, Verdict

if TYPE_CHECKING:
    from pomona.evidence.table import Table
    from pomona.stages import Artefact

OBJECTIVES: Mapping[str, tuple[Role, Any, dict[str, Any]]] = {
    "untrained": ("baseline", "masked-lm", {"steps": 1}),
    "positions": ("method", {"method": "mp3-position-prediction", "places": ENCODER_LENGTH}, {}),
    "masked-lm": ("reference", "masked-lm", {}),
}


def arms(scale: Scale) -> Mapping[str, Arm]:
    """The same encoder, hardly trained, trained to find places, and trained to fill masks; then fine-tuned alike."""
    return {
        name: Arm([*trained_encoder(scale, objective, **budget), *tuned_on_packages(scale)], role)
        for name, (role, objective, budget) in OBJECTIVES.items()
    }


def measure(made: Mapping[str, Artefact]) -> dict[str, float]:
    """Accuracy on held-out docstrings, and of the places before fine-tuning."""
    tuned = [made[f"tuned-{seed}"].facts["accuracy"] for seed in range(TUNINGS)]
    found = {"accuracy": 100 * statistics.fmean(tuned), "probe": 100 * made["probe"].facts["accuracy"]}
    if made["model"].facts["objective"]["method"] == "mp3-position-prediction":
        found["places"] = 100 * made["model"].facts["quality"]["accuracy"]
    return found


def judge(table: Table) -> Verdict:
    """See `CARD.rule`."""
    gain = table.against("positions", "untrained", "accuracy")
    rest = table.against("positions", "masked-lm", "accuracy")
    because = (
        f"fine-tuned, the encoder that was trained on positions is {gain.mean:+.1f} points from an untrained one "
        f"(p = {gain.p:.2g}) and {rest.mean:+.1f} from one trained on masks"
    )
    if gain.mean >= 2 and gain.low > 0:
        return Verdict("reproduced", because)
    return Verdict("partly" if gain.mean > 0 and gain.p < 0.1 else "not reproduced", because)


CARD = Card(
    slug="mp3-position-prediction",
    claim="Trained to tell where tokens came from, an encoder is better to fine-tune than from a random start.",
    equal="encoder, text, fine-tuning and its seeds, two rates tried; FLOPs of both objectives, none for the start.",
    rule=(
        "Reproduced: fine-tuned accuracy at least two points above the untrained encoder, the 95 % interval of the "
        "difference above 0. Partly: above it with p < 0.1. Else not reproduced."
    ),
    metrics=(
        Metric("accuracy", "% of docstrings, 16 packages", better="higher"),
        Metric("probe", "% with a frozen encoder", better="higher"),
        Metric("places", "% of held-out tokens", better="higher"),
    ),
    arms=arms,
    measure=measure,
    judge=judge,
)

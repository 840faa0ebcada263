"""Training with a line about the source, with and without its plain end, against training without.

Findings at scale tiny: the line steers (the right one helps, a wrong one hurts), the plain end repairs what goes
without a line, and hidden states know more about the package; but the loss without a line stays 2 to 3 % above standard
training where the rule allows 1 %. The lines take 8 to 10 of the 128 tokens of every sequence, where the paper's take
about as many of 8192, and the cool-down is 15 steps; both cost text that the standard model reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pomona.evidence.assets import docs, llama, training
from pomona.evidence.card import Arm, Card, Metric, Role, Scale, Verdict

if TYPE_CHECKING:
    from torch import Tensor

    from pomona.anatomy import Anatomy
    from pomona.data import Tokens
    from pomona.evidence.table import Table
    from pomona.stages import Artefact

METADATA = {"method": "meco", "column": "package", "template": "PKG: {value}\n\n", "part": "whole", "least": 10}
COOLDOWNS: Mapping[str, tuple[Role, float]] = {
    "standard": ("baseline", 1.0),
    "meco": ("method", 0.1),
    "no cool-down": ("reference", 0.0),
}
TEXT = 80
"""Tokens at the beginning of each held-out document on which the models are compared."""
HELD_OUT, PROBED = 256, 768
"""Documents that are scored, and from which a probe learns to tell the package."""


def arms(scale: Scale) -> Mapping[str, Arm]:
    """The same sequences of tokens per step; only what stands in front of the documents differs."""
    made = {}
    for name, (role, cooldown) in COOLDOWNS.items():
        stage = {
            "name": "model",
            "model": llama(scale),
            "objective": {**METADATA, "cooldown": cooldown},
            "optimizer": {"method": "muon", "learning_rate": 0.01, "rest_learning_rate": 0.01},
            "schedule": {"method": "warmup-cosine", "warmup": 0.05, "min_ratio": 0.1},
            **training(scale, 3.0e5),
            "validation_tokens": 8_192,
        }
        made[name] = Arm([*docs(scale), {"pretrain": stage}], role)
    return made


def measure(made: Mapping[str, Artefact]) -> dict[str, float]:
    """Losses on the same held-out text behind the right line, another one, and none; and what a linear probe of the
    mean hidden state (without a line) knows about the package."""
    import numpy as np
    import torch

    from pomona import anatomy
    from pomona.data import Tokens
    from pomona.objectives import MecoConfig
    from pomona.objectives.meco import begin_of_text, prefixes

    tokens = Tokens.open(made["tokenize"].folder)
    body = anatomy.of(anatomy.load(made["model"].folder).eval())
    config = MecoConfig.parse({**METADATA, "cooldown": 0.0})
    lines = config.values(tokens.metadata("validation", config.column))
    chosen = documents_of(tokens, "validation", HELD_OUT)
    others = [lines[document] for document in chosen]
    turned = dict(zip(chosen, [*others[1:], *others[:1]], strict=True))
    wrong = [turned.get(document, line) for document, line in enumerate(lines)]
    told = [document for document in chosen if wrong[document] != lines[document]]
    bare = np.array([begin_of_text(tokens.tokenizer)])
    nats = {
        "right": nats_of(body, tokens, told, prefixes(lines, config, tokens.tokenizer)),
        "wrong": nats_of(body, tokens, told, prefixes(wrong, config, tokens.tokenizer)),
        "none": nats_of(body, tokens, told, lambda document: bare),
    }
    torch.manual_seed(0)
    return {
        "loss": float(nats["none"].mean()),
        "right line": float((nats["right"] - nats["none"]).mean()),
        "wrong line": float((nats["wrong"] - nats["none"]).mean()),
        "probe": probe(body, tokens, config.column),
    }


def documents_of(tokens: Tokens, split: str, most: int) -> list[int]:
    """Documents of a split with enough text, spread over it."""
    import numpy as np

    part = tokens.train if split == "train" else tokens.validation
    lengths = np.diff(np.append(part.document_starts, part.count))
    long = np.flatnonzero(lengths > TEXT)
    return [int(each) for each in long[:: max(1, len(long) // most)][:most]]


def nats_of(body: Anatomy, tokens: Tokens, documents: Sequence[int], prefix: Any) -> Tensor:
    """(documents,) nats per token of the beginning of each document, behind what is given."""
    import torch

    from pomona.data.packed import first_parts
    from pomona.objectives import NextToken

    objective, found = NextToken(), []
    batch = objective.prepare(first_parts(tokens.validation, documents, prefix, TEXT))
    with torch.no_grad():
        for row in range(len(documents)):
            loss = objective(body, {name: tensor[row : row + 1] for name, tensor in batch.items()})
            found.append(loss.total / loss.targets)
    return torch.stack(found)


def probe(body: Anatomy, tokens: Tokens, column: str) -> float:
    """Share of held-out documents whose package ridge regression on mean hidden states of train documents finds."""
    import numpy as np
    import torch

    from pomona.data.packed import first_parts
    from pomona.objectives.meco import begin_of_text

    bare = np.array([begin_of_text(tokens.tokenizer)])
    states, names = {}, {}
    for split, most in (("train", PROBED), ("validation", HELD_OUT)):
        chosen = documents_of(tokens, split, most)
        part = tokens.train if split == "train" else tokens.validation
        ids = first_parts(part, chosen, lambda document: bare, TEXT)["tokens"]
        with torch.no_grad():
            states[split] = torch.cat([body.hidden(input_ids=some).mean(1).double() for some in torch.split(ids, 32)])
        known = tokens.metadata(split, column)
        names[split] = [known[document] for document in chosen]
    labels = {name: number for number, name in enumerate(sorted({str(name) for name in names["train"]}))}
    mean, spread = states["train"].mean(0), states["train"].std(0)
    features = {
        split: torch.cat([(value - mean) / spread, torch.ones(len(value), 1).double()], 1)
        for split, value in states.items()
    }
    wanted = torch.eye(len(labels)).double()[[labels[str(name)] for name in names["train"]]]
    gram = features["train"].T @ features["train"] + 10.0 * torch.eye(features["train"].shape[1]).double()
    answers = (features["validation"] @ torch.linalg.solve(gram, features["train"].T @ wanted)).argmax(1)
    right = [labels.get(str(name)) == int(answer) for name, answer in zip(names["validation"], answers, strict=True)]
    return sum(right) / len(right)


def judge(table: Table) -> Verdict:
    """See `CARD.rule`."""
    right, wrong = table.mean("meco", "right line"), table.mean("meco", "wrong line")
    loss = table.mean("meco", "loss") / table.mean("standard", "loss") - 1
    later = table.against("meco", "no cool-down", "loss").mean
    probe_gain = table.against("meco", "standard", "probe").mean
    because = (
        f"the right line changes the loss by {right:+.3f} nats per token, a wrong one by {wrong:+.3f}; without a line "
        f"MeCo is {loss:+.1%} from standard training and {later:+.3f} nats from the model without a cool-down; "
        f"a probe finds the package {100 * probe_gain:+.1f} points as often"
    )
    steers, holds, knows = right <= -0.02 and wrong >= 0.02, loss <= 0.01 and later < 0, probe_gain >= 0.01
    if steers and holds and knows:
        return Verdict("reproduced", because)
    return Verdict("partly" if steers and holds else "not reproduced", because)


CARD = Card(
    slug="meco",
    claim=(
        "A model that reads a line about the source for most of the run can be steered by it, is no worse without it "
        "after a plain end, and knows more about its text."
    ),
    equal="tokens read (the lines count), corpus, optimizer and rate, schedule, packing; no sweep.",
    rule=(
        "Reproduced: on the same held-out text, the right line lowers MeCo's loss by 0.02 nats per token and a wrong "
        "one raises it as much; without a line it is at most 1 % above standard training and below the model without a "
        "cool-down; and a probe of hidden states names the package one point more often than standard. Partly: all "
        "but the probe. Else not reproduced."
    ),
    metrics=(
        Metric("loss", "nats per token of held-out beginnings without a line"),
        Metric("right line", "change of the loss behind the right line"),
        Metric("wrong line", "change of the loss behind another package's", better="higher"),
        Metric("probe", "share of packages named from hidden states", better="higher"),
    ),
    arms=arms,
    measure=measure,
    judge=judge,
)

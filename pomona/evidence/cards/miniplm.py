"""Half of a dirty corpus, chosen by the difference of two models, by one of them, or by lot: what do students learn?

Findings at scale tiny: the choice leaves all planted dirt out (13 % of random characters, 3 % of repetition), and yet
the student is no better for it: what is dirty is learnt to be passed over in a few steps. The difference of the two
models does no worse than the teacher's favourites.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pomona.evidence.assets import DATA_SEED, LENGTH, VOCABULARY, llama, training
from pomona.evidence.card import Arm, Card, Metric, Role, Scale, Verdict
from pomona.evidence.planted_text import Junk, looks, place_of, plant

if TYPE_CHECKING:
    from pomona.evidence.table import Table
    from pomona.stages import Artefact

DOCS, CODE = ("datasets/*", "fsspec/*"), ("pydantic/*",)
"""Packages whose documentation and code are in the corpus."""
TAUGHT = ("huggingface_hub/*", "peft/*", "pandas/*"), ("accelerate/*",)
"""Packages that the teacher learns from: clean text, and none of the corpus."""
SIZES: Mapping[Scale, int] = {"tiny": 1, "small": 4, "gpu": 100}
RATIO = 0.5
JUNK: Mapping[Junk, int] = {"repetitive": 200, "random": 130}
"""Kilobytes of text without worth at scale tiny."""


def prepare(scale: Scale) -> None:
    """Write the text without worth."""
    for kind, size in JUNK.items():
        plant(kind, size * SIZES[scale])


def text(scale: Scale) -> list[Any]:
    """The dirty corpus, its clean part (whose held-out documents are the same), and what the teacher reads."""

    def clean(docs: tuple[str, ...], code: tuple[str, ...]) -> list[Any]:
        found = [{"path": "env:docs", "include": docs}, {"path": "env:code", "include": code}]
        return found if scale != "gpu" else ["env:docs", "env:code"]

    junk = [str(place_of(kind, size * SIZES[scale])) for kind, size in JUNK.items()]
    shared = {"near_duplicates": None, "validation": 0.05, "seed": DATA_SEED}
    return [
        {"corpus": {"name": "mixed-text", "sources": [*clean(DOCS, CODE), *junk], **shared}},
        {"tokenize": {"name": "mixed", "from": "mixed-text", "vocab_size": VOCABULARY[scale]}},
        {"corpus": {"name": "clean-text", "sources": clean(DOCS, CODE), **shared}},
        {"tokenize": {"name": "clean", "from": "clean-text", "like": "mixed"}},
        {"corpus": {"name": "taught-text", "sources": clean(*TAUGHT), **shared}},
        {"tokenize": {"name": "taught", "from": "taught-text", "like": "mixed"}},
    ]


def arms(scale: Scale) -> Mapping[str, Arm]:
    """A student of what each selector keeps of the same four fifths; the reference has read the fifth that is left."""
    chunks = {"chunk_length": LENGTH[scale] - 1}
    parts = [
        {"select": {"name": "apart", "data": "mixed", "method": "random-subset", "ratio": 0.2, **chunks}},
        {
            "select": {
                "name": "pool",
                "data": "mixed",
                "method": "random-subset",
                "ratio": 0.8,
                "part": "rest",
                **chunks,
            }
        },
    ]
    small = llama(scale, hidden_size=64, intermediate_size=172, num_hidden_layers=2)
    tiny = llama(scale, hidden_size=32, intermediate_size=88, num_hidden_layers=2, num_attention_heads=2)
    muon = {"method": "muon", "learning_rate": 0.01, "rest_learning_rate": 0.01}
    schedule = {"method": "warmup-cosine", "warmup": 0.05, "min_ratio": 0.1}

    def learnt(name: str, model: Mapping[str, Any], data: str, tokens: float, **more: Any) -> dict[str, Any]:
        shared = training(scale, tokens, optimizer=muon, schedule=schedule, data=data, **more)
        return {"pretrain": {"name": name, "model": dict(model), **shared}}

    teacher = learnt("teacher", llama(scale), "taught", 4.0e5, seed=DATA_SEED)
    reference = learnt("reference", tiny, "apart", 1.0e5, seed=DATA_SEED)
    exam = {"tokens": 32_768, "seq_length": LENGTH[scale], "decode_tokens": 8}

    def student(before: list[Any], select: Mapping[str, Any]) -> list[Any]:
        return [
            *text(scale),
            *parts,
            *before,
            {"select": {"name": "kept", "data": "pool", "ratio": RATIO, **chunks, **select}},
            learnt("student", small, "kept", 2.0e5),
            {"examine": {"name": "exam", "data": "clean", "models": ["student"], **exam}},
        ]

    by: Mapping[str, tuple[Role, list[Any], Mapping[str, Any]]] = {
        "random": ("baseline", [], {"method": "random-subset", "seed": 1}),
        "miniplm": ("method", [teacher, reference], {"teacher": "teacher", "reference": "reference"}),
        "teacher alone": ("reference", [teacher], {"method": "perplexity-filter", "teacher": "teacher"}),
    }
    return {name: Arm(student(before, select), role) for name, (role, before, select) in by.items()}


def measure(made: Mapping[str, Artefact]) -> dict[str, float]:
    """The student's loss on clean held-out text, what its data is made of, and what choosing it cost."""
    from pomona.ground.files import read_json
    from pomona.stages.base import ledger_flops

    (row,) = read_json(made["exam"].folder / "examination.json")["models"]
    shares = composition(made["kept"])
    choosing = sum(ledger_flops(made[name].ledger()) for name in ("teacher", "reference", "kept") if name in made)
    return {
        "loss": float(row["quality"]["nats_per_token"]),
        "random text": shares["random"],
        "repetition": shares["repetitive"],
        "repetition before": composition(made["pool"])["repetitive"],
        "cost of the choice": choosing / ledger_flops(made["student"].ledger()),
    }


def composition(artefact: Artefact) -> Counter[str]:
    """Shares of the tokens of a selection that are random characters, repetition, and text."""
    import numpy as np

    from pomona.data import Tokens

    tokens = Tokens.open(artefact.folder)
    split, counts = tokens.train, Counter[str]()
    for start in range(0, split.count, 128):
        ids = split.tokens[start : start + 128]
        counts[looks(tokens.tokenizer.decode(np.asarray(ids), skip_special_tokens=True))] += len(ids)
    return Counter({kind: count / split.count for kind, count in counts.items()})


def judge(table: Table) -> Verdict:
    """See `CARD.rule`."""
    result, noise = table.against("miniplm", "random", "loss"), table.pooled_spread("miniplm", "random", "loss")
    alone = table.against("miniplm", "teacher alone", "loss").mean
    junk, repetition = table.mean("miniplm", "random text"), table.mean("miniplm", "repetition")
    before, cost = table.mean("miniplm", "repetition before"), table.mean("miniplm", "cost of the choice")
    because = (
        f"MiniPLM's student ends {result.mean:+.3f} nats from that of a random half (pooled spread {noise:.3f}, "
        f"p = {result.p:.2g}) and {alone:+.3f} from the teacher's favourites; it keeps {junk:.1%} random characters "
        f"and {repetition:.1%} repetition, of which there was {before:.1%}; choosing cost {cost:.1f} times the student"
    )
    gains, clean = result.mean <= -max(0.02, noise), junk < 0.03 and repetition < before
    if gains and clean:
        return Verdict("reproduced", because)
    return Verdict("partly" if gains or result.high < 0 else "not reproduced", because)


CARD = Card(
    slug="miniplm",
    claim="A student learns more from the half of a corpus that a teacher likes better than a small model does.",
    equal="corpus, tokens and steps of the students, their optimizer and rate; the choice is not charged to them.",
    rule=(
        "Reproduced: MiniPLM's student is at least 0.02 nats per token and one pooled standard deviation below that of "
        "a random half on clean held-out text; less than 3 % of what it keeps is random characters, and its share of "
        "repetition is below the corpus's. Partly: the first, or a 95 % interval below 0. Else not reproduced."
    ),
    metrics=(
        Metric("loss", "the student's nats per token on clean held-out text"),
        Metric("random text", "share of what is kept"),
        Metric("repetition", "share of what is kept"),
        Metric("cost of the choice", "teacher, reference and scores over the student's training"),
    ),
    arms=arms,
    prepare=prepare,
    measure=measure,
    judge=judge,
)

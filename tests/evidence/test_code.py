"""Which modules an experiment is about, and when its stages are others."""

from __future__ import annotations

from typing import Any

from pomona.evidence.code import code_of, compared, modules_of
from pomona.stages import load

ADAMW, MUON, COSINE, NEXT = (
    "pomona.optimizers.adamw",
    "pomona.optimizers.muon",
    "pomona.schedules.warmup_cosine",
    "pomona.objectives.next_token",
)


def stages(optimizer: Any, *more: Any) -> Any:
    model = {"shape": "llama", "hidden_size": 16}
    pretrain = {"pretrain": {"model": model, "steps": 10, "optimizer": optimizer}}
    tokens = [{"corpus": "env:docs"}, {"tokenize": {"vocab_size": 300}}]
    return load({"name": "r", "stages": [*tokens, pretrain, *more]}).stages


def test_methods_of_a_stage() -> None:
    """Catches a method that a stage names and nobody counts, and a fingerprint that does not depend on it."""
    corpus, _, adamw = stages("adamw")
    muon = stages("muon")[2]
    assert modules_of(adamw) == {ADAMW, COSINE, NEXT} and modules_of(muon) == {MUON, COSINE, NEXT}
    assert code_of(corpus) == "" and "" not in (code_of(adamw), code_of(muon)) and code_of(adamw) != code_of(muon)


def test_the_common_ground_is_not_compared() -> None:
    """Catches results that grow stale with the optimizer of their base model, and a baseline that is not counted."""
    prune = {score: {"prune": {"method": "magnitude", "score": score}} for score in ("magnitude", "random")}
    arms = {score: stages("muon", entry) for score, entry in prune.items()}
    assert compared(arms) == {"pomona.sparsity.magnitude"}
    assert compared({"a": stages("adamw"), "b": stages("muon")}) == {ADAMW, MUON}
    assert compared({"a": stages("adamw"), "b": stages({"method": "adamw", "weight_decay": 0.3})}) == {ADAMW}
    assert compared({"alone": stages("adamw")}) == {ADAMW, COSINE, NEXT}

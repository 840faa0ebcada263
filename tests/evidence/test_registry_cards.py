"""The rules of the cards on the registry, on sparse training, merging, probes and attacks, on tables made by hand."""

from __future__ import annotations

from collections.abc import Sequence

from pomona.evidence.cards import alert_attack, sltrain, spdf, sufo
from tests.evidence.test_verdicts import verdict

Metrics = dict[str, Sequence[float]]


def arm(**values: float) -> Metrics:
    """Metrics that are the same at every seed; `_` in a name is a space."""
    return {name.replace("_", " "): [value] * 3 for name, value in values.items()}


def test_ptmtorrent() -> None:
    """Catches a verdict in spite of an invented field, or without a lead over the naive reader."""

    def scanned(score: float, invented: float = 0.0, defects: float = 1.0, naive: float = 0.2) -> str:
        own = {**arm(defects_found=defects, invented_fields=invented, not_packages=0.0, false_alarms=0.0, valid=1.0)}
        own["field F1"] = [score] * 3
        return verdict("ptmtorrent", {"config.json": {"field F1": [naive] * 3}, "ptmtorrent": own}).status

    assert [scanned(1.0), scanned(0.9), scanned(1.0, defects=0.9)] == ["reproduced", "partly", "partly"]
    assert scanned(1.0, invented=1.0) == scanned(1.0, naive=0.95) == "not reproduced"


def test_ptm_reuse_audit() -> None:
    """Catches alarms on clean packages that are outweighed by what was found."""

    def audited(recall: float, alarms: float, five: float) -> str:
        own = arm(recall=recall, precision=0.95, clean_with_alarms=alarms, recall_of_behaviour=recall)
        own["found at 5%"] = [five] * 3
        return verdict("ptm-reuse-audit", {"completeness": arm(recall_of_behaviour=0.0), "audit": own}).status

    assert [audited(1.0, 0.0, 0.9), audited(1.0, 0.0, 0.5)] == ["reproduced", "partly"]
    assert audited(1.0, 0.2, 0.9) == audited(0.3, 0.0, 0.9) == "not reproduced"


def test_spdf() -> None:
    """Catches a gap that is taken of the wrong arm, and a gain that lies within the noise."""

    def tuned(freed: float, held: float, half: float = 2.01) -> str:
        losses = {spdf.DENSE: 2.0, spdf.SPARSE: held, spdf.SPDF: freed, spdf.HALF: half, spdf.SMALL: 2.1}
        arms = {
            name: {"loss": [loss, loss + 0.01, loss - 0.01], "useful FLOPs": [1.0, 1.0, 1.0]}
            for name, loss in losses.items()
        }
        return verdict("spdf", arms).status

    assert [tuned(2.04, 2.2), tuned(2.1, 2.2), tuned(2.04, 2.2, half=2.06)] == ["reproduced", "partly", "partly"]
    assert tuned(2.04, 2.03) == tuned(2.3, 2.5) == tuned(2.04, 2.045) == "not reproduced"


def test_sltrain() -> None:
    """Catches low rank at equal rank taken for low rank with equal numbers."""

    def trained(own: float, equal: float) -> str:
        losses = {sltrain.FULL: 2.0, sltrain.LOW: 2.2, sltrain.EQUAL: equal, sltrain.SLTRAIN: own}
        arms = {name: arm(loss=loss, trained_numbers=1.0) for name, loss in losses.items()}
        return verdict("sltrain", arms).status

    assert [trained(2.1, 2.15), trained(2.145, 2.15), trained(2.19, 2.3)] == ["reproduced", "partly", "partly"]
    assert trained(2.15, 2.15) == trained(2.16, 2.15) == "not reproduced"


def test_modular_slm_merge() -> None:
    """Catches a merge that loses on one domain, and one that is no better than a mean."""

    def merged(domains: float, worst: float, kept: float = 0.6, undone: float = 0.6) -> str:
        own = arm(domains=domains, worst_gain=worst, gain_kept=kept, loss_undone=undone, experts_best_at_home=1.0)
        arms = {"mean": arm(domains=2.0), "one model": arm(domains=1.9), "modular": own}
        return verdict("modular-slm-merge", arms).status

    assert [merged(2.01, 0.1), merged(2.1, 0.1), merged(2.0, 0.1, kept=0.4)] == ["reproduced", "partly", "partly"]
    assert merged(1.9, -0.01) == "not reproduced"


def test_sufo() -> None:
    """Catches a verdict on one part of four, and encoders that are exchanged."""

    def probed(falls: float, grown: float, steps: float, found: float, score: float = 0.8) -> str:
        own = arm(similarity_falls=falls, two_components=grown, told_apart_after=steps, outliers=found)
        own["macro-F1"] = [score] * 3
        plain = {**arm(told_apart_after=90.0), "macro-F1": [0.7] * 3}
        return verdict("sufo", {"random": plain, "pre-trained": own}).status

    assert [probed(-0.9, 0.3, 30, 0.8), probed(-0.9, 0.3, 90, 0.2)] == ["reproduced", "partly"]
    assert probed(-0.9, 0.0, 90, 0.2) == probed(-0.9, 0.3, 30, 0.8, score=0.6) == "not reproduced"
    assert set(sufo.ROLES) == {"random", "pre-trained"}


def test_alert_attack() -> None:
    """Catches success that is bought with strange names, and a baseline that does as well."""

    def attacked(own: float, mhm: float, chance: float, strange: float = 1.0) -> str:
        values = {alert_attack.OWN: own, alert_attack.MHM: mhm, alert_attack.CHANCE: chance, "greedy": own}
        arms = {name: arm(success=value, strangeness=1.5) for name, value in values.items()}
        arms[alert_attack.OWN] = arm(success=own, strangeness=strange)
        return verdict("alert-attack", arms).status

    assert [attacked(0.5, 0.4, 0.3), attacked(0.5, 0.6, 0.3), attacked(0.5, 0.4, 0.3, strange=2.0)] == [
        "reproduced",
        "partly",
        "partly",
    ]
    assert attacked(0.3, 0.2, 0.3) == "not reproduced"

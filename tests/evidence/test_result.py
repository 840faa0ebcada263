"""Results are sealed, read back as they were, and stale once the measured code has changed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pomona.catalog import fingerprint
from pomona.evidence.card import Verdict, card_of
from pomona.evidence.result import Result, arms_of, file_of, read_result, results_of, write_result
from pomona.evidence.table import Trial
from pomona.ground.errors import DamagedArtefact

MODULES = ("pomona.evidence.cards.gptq", "pomona.quantization.gptq", "pomona.quantization.rtn")


def result(**changes: object) -> Result:
    """A small result about GPTQ as it is."""
    values: dict[str, object] = {
        "slug": "gptq",
        "scale": "tiny",
        "claim": "c",
        "equal": "e",
        "rule": "r",
        "metrics": ({"name": "loss", "unit": "nats", "better": "lower"},),
        "arms": arms_of(card_of("gptq"), "tiny"),
        "trials": (Trial("a", 0, {"loss": 0.1 + 0.2}, flops=1e12, curve=((1.0, 2.0, 3.0),), made={"base": "00"}),),
        "verdict": Verdict("partly", "because"),
        "versions": {"torch": "2"},
        "machine": {"cores": 2, "accelerator": None},
        "modules": MODULES,
        "code": fingerprint.fingerprint(MODULES),
        "day": "2026-01-01",
    }
    return Result(**{**values, **changes})  # type: ignore[arg-type]


def test_round_trip(tmp_path: Path) -> None:
    """Catches numbers that lose digits on the way, and a fresh result that is taken for an old or edited one."""
    file = write_result(result(), tmp_path)
    assert file == file_of("gptq", "tiny", tmp_path)
    again = read_result(file)
    assert again.trials == result().trials and again.verdict == result().verdict
    assert again.state == "fresh"
    assert results_of("gptq", tmp_path) == [again] and results_of("conda", tmp_path) == []


def test_edited_and_stale(tmp_path: Path) -> None:
    """Catches a number that somebody improved, and a verdict on code or arms that are no more."""
    file = write_result(result(), tmp_path)
    values = json.loads(file.read_text())
    values["trials"][0]["metrics"]["loss"] = 0.1
    file.write_text(json.dumps(values))
    assert read_result(file).state == "edited"
    assert read_result(write_result(result(code="0" * 16), tmp_path)).state == "stale"
    assert read_result(write_result(result(modules=MODULES[:1]), tmp_path)).state == "stale"
    assert read_result(write_result(result(arms={}), tmp_path)).state == "stale"
    file.write_text(json.dumps({"slug": "gptq"}))
    with pytest.raises(DamagedArtefact, match="is not a result"):
        read_result(file)


def package(folder: Path, **modules: str) -> None:
    """A package of methods on disk."""
    (folder / "orchard").mkdir(exist_ok=True)
    (folder / "orchard/__init__.py").write_text("")
    for name, text in modules.items():
        (folder / f"orchard/{name}.py").write_text(text)


def test_fingerprints_follow_what_is_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a comment that makes results stale, and a changed helper that does not."""
    monkeypatch.syspath_prepend(tmp_path)
    method = '"""Card."""\nfrom typing import TYPE_CHECKING\nfrom orchard.helper import double\n'
    package(tmp_path, method=method, helper="def double(x):\n    return 2 * x\n", other="A = 1\n")
    first = fingerprint.fingerprint(["orchard.method"])
    assert fingerprint.reached(["orchard.method"]) == {"orchard.method", "orchard.helper"}
    package(tmp_path, method=f"# a comment\n{method}".replace("Card.", "Another card."), other="A = 2\n")
    assert fingerprint.fingerprint(["orchard.method"]) == first
    package(tmp_path, method=f"{method}if TYPE_CHECKING:\n    from orchard.other import A\n")
    assert fingerprint.reached(["orchard.method"]) == {"orchard.method", "orchard.helper"}
    package(tmp_path, method=method, helper='def double(x):\n    """Twice."""\n    return 2 * x\n')
    assert fingerprint.fingerprint(["orchard.method"]) == first
    package(tmp_path, helper="def double(x):\n    return x + x\n")
    assert fingerprint.fingerprint(["orchard.method"]) != first


def test_the_substrate_is_left_out() -> None:
    """Catches results that grow stale with every change of the engine, and helpers of a method that are not counted."""
    found = fingerprint.reached(["pomona.quantization.gptq"])
    assert "pomona.quantization.solver" in found and "pomona.quantization.cholesky" in found
    assert not any(name.startswith(("pomona.anatomy", "pomona.engine", "pomona.ground")) for name in found)
    found = fingerprint.reached(["pomona.evidence.cards.ptmtorrent"])
    assert "pomona.evidence.planted" in found and "pomona.evidence.table" not in found

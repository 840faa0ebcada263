"""Records of packages of every kind against what was planted, next to a reader of `config.json` alone."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pomona.evidence.card import Arm, Metric, Scale, Verdict
from pomona.evidence.direct import DirectCard
from pomona.evidence.planted import Planted, plant
from pomona.ground.errors import Problem
from pomona.registry import Record, duplicates, problems_in, scan

if TYPE_CHECKING:
    from pomona.evidence.table import Table

Facts = dict[str, Any]


def arms(scale: Scale) -> Mapping[str, Arm]:
    """Both read the same forty packages."""
    return {"config.json": Arm([], "baseline"), "ptmtorrent": Arm([])}


def attempt(scale: Scale, arm: str, seed: int, folder: Path) -> dict[str, float]:
    """Plant, read, compare field by field and defect by defect."""
    root = (folder / "models").resolve()
    planted = plant(root, seed)
    start = time.perf_counter()
    if arm == "ptmtorrent":
        records = scan([root])
        found = read_records(records)
        valid = [set(problems_of(record)) <= {"LatestGitCommitSHA"} for record in records]
    else:
        found, valid = read_configs(root), []
    seconds = time.perf_counter() - start
    by_path = {str(one.path): one for one in planted}
    return {
        "field F1": field_f1(by_path, found),
        "defects found": sum(len(one.defects & found[path][1]) for path, one in by_path.items() if path in found)
        / sum(len(one.defects) for one in planted),
        "false alarms": float(
            sum(len(defects - by_path[path].defects) for path, (_, defects) in found.items() if path in by_path)
        ),
        "invented fields": float(
            sum(len(facts.keys() - by_path[path].truth.keys()) for path, (facts, _) in found.items() if path in by_path)
        ),
        "not packages": float(len(found.keys() - by_path.keys())),
        "valid": sum(valid) / len(planted),
        "milliseconds": 1000 * seconds / len(planted),
    }


def problems_of(record: Record) -> list[str]:
    """Where a record is not valid; a commit that nobody can know is no fault of the scan."""
    problems: list[Problem] = problems_in(record)
    return [problem.where for problem in problems]


def read_records(records: list[Record]) -> dict[str, tuple[Facts, set[str]]]:
    """What the records say in the words of the truth, and the defects that they show, by place."""
    twice = {record["Pomona"]["path"] for group in duplicates(records) for record in group}
    found = {}
    for record in records:
        facts, hub = record["Pomona"], record["ModelHub"]["ModelHubURL"]
        said = {
            "name": record.get("ModelName"),
            "owner": None if record.get("ModelOwner") == hub else record.get("ModelOwner"),
            "task": record.get("ModelTask"),
            "architecture": record.get("ModelArchitecture"),
            "sha": record.get("LatestGitCommitSHA"),
            "signed": facts.get("signed"),
            "licence": facts.get("licence"),
            "dataset": next((one["DatasetName"] for one in record.get("Datasets", ())), None),
            "claim": next((one["value"] for one in facts.get("claims", ())), None),
            "base": facts.get("base_model"),
            "parameters": facts.get("parameters"),
            "format": next(iter(facts.get("formats", ())), None),
        }
        signs = {
            "card": facts["kind"] in ("folder", "cache", "clone") and not facts.get("sections"),
            "number format": facts.get("declared") == "float16" and "F16" not in facts.get("dtypes", {"F16": 1}),
            "pickle": any(danger["level"] == "dangerous" for danger in facts.get("dangers", ())),
            "pointer": any(one.get("pointer") for one in facts.get("files", ())),
            "duplicate": facts["path"] in twice,
        }
        known = {key: value for key, value in said.items() if value is not None}
        found[facts["path"]] = known, {sign for sign, seen in signs.items() if seen}
    return found


def read_configs(root: Path) -> dict[str, tuple[Facts, set[str]]]:
    """What a reader of configurations finds: the folder's name, the class, and whether there is a README."""
    found = {}
    for file in sorted(root.rglob("config.json")):
        values = json.loads(file.read_text(encoding="utf-8"))
        facts = {"name": file.parent.name, "architecture": next(iter(values.get("architectures", ())), None)}
        known = {key: value for key, value in facts.items() if value is not None}
        found[str(file.parent)] = known, set() if (file.parent / "README.md").is_file() else {"card"}
    return found


def field_f1(planted: Mapping[str, Planted], found: Mapping[str, tuple[Facts, set[str]]]) -> float:
    """Harmonic mean of: share of the read values that are true, share of the true values that were read."""
    right = sum(
        facts.get(name) == value and value is not None
        for path, one in planted.items()
        for facts in [found.get(path, ({}, set()))[0]]
        for name, value in one.truth.items()
    )
    said = sum(len(facts) for facts, _ in found.values())
    true = sum(len(one.truth) for one in planted.values())
    return 2.0 * float(right) / (said + true)


def judge(table: Table) -> Verdict:
    """See `CARD.rule`."""
    score, naive = table.values("ptmtorrent", "field F1"), table.values("config.json", "field F1")
    defects = min(table.values("ptmtorrent", "defects found"))
    wrong = max(
        table.values("ptmtorrent", name)[seed]
        for name in ("invented fields", "not packages", "false alarms")
        for seed in range(len(score))
    )
    valid = min(table.values("ptmtorrent", "valid"))
    because = (
        f"field F1 {min(score):.3f} (a reader of config.json: {max(naive):.2f}), {defects:.0%} of the planted defects "
        f"found, {wrong:.0f} inventions or false alarms, {valid:.0%} valid"
    )
    better = min(score) > max(naive) + 0.1
    if wrong or not better:
        return Verdict("not reproduced", because)
    return Verdict("reproduced" if min(score) >= 0.98 and valid == 1 and defects == 1 else "partly", because)


CARD = DirectCard(
    slug="ptmtorrent",
    claim="Packages of several hubs can be described in one schema, field by field, from what is with them.",
    equal="the forty packages of a seed; nothing is trained.",
    rule=(
        "Reproduced: at every seed field F1 is >= 0.98, every record is valid but for a commit that nobody says, "
        "all planted defects are found, no defect is seen where none was planted, nothing is invented, and the "
        "reader of config.json is lower by more than 0.1. Partly: nothing invented, and lower numbers. Else not "
        "reproduced."
    ),
    metrics=(
        Metric("field F1", "of the planted values", better="higher"),
        Metric("defects found", "share", better="higher"),
        Metric("false alarms", "defects"),
        Metric("invented fields", "values"),
        Metric("not packages", "records"),
        Metric("valid", "share of the packages", better="higher"),
        Metric("milliseconds", "for each package"),
    ),
    arms=arms,
    attempt=attempt,
    judge=judge,
)

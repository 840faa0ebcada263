"""What a registry answers: which packages have what is asked for, tables for other tools, and figures about all."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pomona.ground.errors import ConfigError, did_you_mean
from pomona.ground.files import atomic_file, write_text
from pomona.registry.schema import Package, Record, problems_in

FIELDS: Mapping[str, Callable[[Record], Any]] = {
    "name": lambda record: record.get("ModelName"),
    "owner": lambda record: record.get("ModelOwner"),
    "hub": lambda record: record["ModelHub"]["ModelHubName"],
    "kind": lambda record: record["Pomona"]["kind"],
    "task": lambda record: record.get("ModelTask"),
    "architecture": lambda record: record.get("ModelArchitecture"),
    "licence": lambda record: record["Pomona"].get("licence"),
    "format": lambda record: ",".join(record["Pomona"].get("formats", ())) or None,
    "parameters": lambda record: record["Pomona"].get("parameters"),
    "bytes": lambda record: sum(file["bytes"] for file in record["Pomona"].get("files", ())),
    "base": lambda record: record["Pomona"].get("base_model"),
    "dangers": lambda record: len(record["Pomona"].get("dangers", ())),
    "claims": lambda record: len(record["Pomona"].get("claims", ())),
    "digest": lambda record: record["Pomona"].get("weight_digest"),
    "path": lambda record: record["Pomona"]["path"],
}
"""What can be asked for, and the columns of tables."""
OPTIONAL = ("Datasets", "ModelPaperDOIs", "ModelTask", "ModelArchitecture")


def query(records: Iterable[Record], conditions: Sequence[str]) -> list[Record]:
    """The records that meet all conditions.

    Args:
        conditions: `field=word` (equal, without regard to case; an empty word: not known), `field~part` (contains),
            `field<number`, `field>number`; fields are those of `FIELDS`.

    Raises:
        ConfigError: a condition has another form, or names no field.
    """
    tests = [_test(condition) for condition in conditions]
    return [record for record in records if all(test(record) for test in tests)]


def _test(condition: str) -> Callable[[Record], bool]:
    place = next((place for place, sign in enumerate(condition) if sign in "=~<>"), 0)
    name, sign, word = condition[:place].strip(), condition[place : place + 1], condition[place + 1 :].strip()
    if not name:
        raise ConfigError(
            f"{condition!r} is no condition", needs="FIELD=WORD, FIELD~PART, FIELD<NUMBER or FIELD>NUMBER"
        )
    if name not in FIELDS:
        raise ConfigError(f"packages have no {name!r}", do=did_you_mean(name, FIELDS))
    value = FIELDS[name]
    if sign in "<>":
        try:
            bound = float(word)
        except ValueError:
            raise ConfigError(f"{word!r} is no number", where=condition) from None

        def within(record: Record) -> bool:
            number = value(record)
            return isinstance(number, int | float) and (number < bound if sign == "<" else number > bound)

        return within
    if sign == "~":
        return lambda record: word.lower() in str(value(record) or "").lower()
    return lambda record: str("" if value(record) is None else value(record)).lower() == word.lower()


def row_of(record: Record) -> dict[str, Any]:
    """A record as one row of a table."""
    return {"id": record["id"], **{name: value(record) for name, value in FIELDS.items()}}


def export(records: Sequence[Record], file: Path) -> None:
    """Write records: `.ndjson` whole, `.parquet`, `.sqlite` and `.csv` one row each, with the record beside it.

    Raises:
        ConfigError: another ending.
    """
    rows = [{**row_of(record), "record": json.dumps(record, ensure_ascii=False)} for record in records]
    columns = ["id", *FIELDS, "record"]
    if file.suffix == ".ndjson":
        write_text(file, "".join(f"{row['record']}\n" for row in rows))
    elif file.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        with atomic_file(file) as part:
            table = pyarrow.table({name: [row[name] for row in rows] for name in columns})
            pyarrow.parquet.write_table(table, part)
    elif file.suffix == ".sqlite":
        with atomic_file(file) as part:
            part.unlink()
            with sqlite3.connect(part) as base:
                base.execute(f"create table packages ({', '.join(columns)})")
                base.executemany(
                    f"insert into packages values ({', '.join('?' * len(columns))})",
                    [[row[name] for name in columns] for row in rows],
                )
            base.close()
    elif file.suffix == ".csv":
        import csv
        import io

        text = io.StringIO()
        writer = csv.DictWriter(text, columns[:-1], extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(file, text.getvalue())
    else:
        raise ConfigError(f"{file.name} has no form that is written", needs=".ndjson, .parquet, .sqlite or .csv")


def duplicates(records: Iterable[Record]) -> list[list[Record]]:
    """Packages that hold the same weights under several names, the largest group first."""
    groups: defaultdict[str, list[Record]] = defaultdict(list)
    for record in records:
        if digest := record["Pomona"].get("weight_digest"):
            groups[digest].append(record)
    found = [group for group in groups.values() if len(group) > 1]
    return sorted(found, key=lambda group: (-len(group), group[0]["id"]))


def lineage(records: Sequence[Record]) -> list[tuple[Record, str, str, Record | None]]:
    """(package, relation, what it was made from, that package where it is here)."""
    homes: dict[str, Record] = {}
    for record in records:
        path = Path(record["Pomona"]["path"])
        homes.setdefault(f"{record.get('ModelOwner')}/{record.get('ModelName')}", record)
        homes.setdefault(str(record.get("ModelName")), record)
        homes.setdefault(str(path), record)
        if record["Pomona"]["kind"] == "pomona":
            homes.setdefault(f"pomona:{path.name.rpartition('-')[2]}", record)
    return [
        (record, str(record["Pomona"].get("relation", "finetune")), base, homes.get(base))
        for record in records
        if (base := record["Pomona"].get("base_model"))
    ]


def report(records: Sequence[Record]) -> dict[str, Any]:
    """Figures about all packages; every count adds up to the number of packages.

    Returns:
        `packages`; `by` hub, kind, task, architecture and licence (None: not known); `complete`: share that has each
        field; `valid`: share that the schema takes; `without_claims` by task; `signed`; `dangers`: packages by the
        worst of theirs; `duplicates`, `lineage` and `bases`: on which models how many others rest; `datasets`.
    """
    count = len(records)
    required = [name for name, field in Package.model_fields.items() if field.is_required() and name != "Pomona"]
    by = {name: dict(Counter(FIELDS[name](record) for record in records).most_common()) for name in GROUPS}
    unclaimed: Counter[Any] = Counter(FIELDS["task"](each) for each in records if not each["Pomona"].get("claims"))
    worst = Counter(_worst(record) for record in records)
    bases = Counter(base for _, _, base, _ in lineage(records))
    data = Counter(one["DatasetName"] for record in records for one in record.get("Datasets", ()))
    return {
        "packages": count,
        "by": by,
        "complete": {name: _share(name in record for record in records) for name in (*required, *OPTIONAL)},
        "valid": _share(not problems_in(record) for record in records),
        "without_claims": dict(unclaimed.most_common()),
        "signed": dict(Counter(record["Pomona"].get("signed") for record in records)),
        "dangers": {level: worst[level] for level in ("dangerous", "unknown", "none")},
        "duplicates": [[each["Pomona"]["path"] for each in group] for group in duplicates(records)],
        "lineage": [
            (record["Pomona"]["path"], relation, base, None if home is None else home["Pomona"]["path"])
            for record, relation, base, home in lineage(records)
        ],
        "bases": dict(bases.most_common()),
        "datasets": dict(data.most_common()),
    }


GROUPS = ("hub", "kind", "task", "architecture", "licence")


def _worst(record: Record) -> str:
    levels = {danger["level"] for danger in record["Pomona"].get("dangers", ())}
    return "dangerous" if "dangerous" in levels else "unknown" if levels else "none"


def _share(values: Iterable[bool]) -> float:
    found = list(values)
    return sum(found) / len(found) if found else 0.0

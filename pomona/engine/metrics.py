"""metrics.jsonl: one JSON object per logged step, appended as it happens, exact after a resume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pomona.ground.files import atomic_file, read_records, storage_errors


class MetricsLog:
    """Appends records to `path`; every record holds the step it belongs to.

    Args:
        path: the file, or None to keep records in memory only.
        resume_at: steps already done. Later records (of a run that died after its last checkpoint) are dropped,
            and so is a last line that was cut in the middle.
    """

    def __init__(self, path: Path | None, resume_at: int = 0) -> None:
        self.path = path
        self.records: list[dict[str, Any]] = []
        if path is not None:
            self.records = [record for record in read_metrics(path) if record["step"] <= resume_at]
            with atomic_file(path) as part:
                part.write_text("".join(json.dumps(record) + "\n" for record in self.records), encoding="utf-8")

    def append(self, record: dict[str, Any]) -> None:
        """Add one record and hand it to the operating system at once."""
        self.records.append(record)
        if self.path is not None:
            with storage_errors(self.path), self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics file; an incomplete last line is left out."""
    return read_records(path)

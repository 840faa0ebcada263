"""Report data as plain values."""

from __future__ import annotations

import json
import subprocess
import sys

from pomona.examination.records import ReportData
from tests.examination.synthetic import report_data


def test_report_data_survives_json() -> None:
    """Catches a field that is added without being restored: a report written later would silently lose it."""
    data = report_data()
    restored = ReportData.from_dict(json.loads(json.dumps(data.to_dict())))
    assert restored.models == data.models
    assert restored.samples == data.samples
    assert restored.arms[0].stages[0].ledger == data.arms[0].stages[0].ledger
    assert json.dumps(restored.to_dict()) == json.dumps(data.to_dict())


def test_the_room_imports_without_torch() -> None:
    """Catches an import at module level that makes every listing wait for torch or matplotlib."""
    heavy = {"torch", "transformers", "matplotlib"}
    code = f"import sys, pomona.examination; print(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

"""`pomona registry`: the commands hand on what they are given, and leave with an error where the audit finds one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from pomona.cli import main as cli
from pomona.evidence.planted import Gardener


def invoke(*words: str) -> Any:
    return CliRunner().invoke(cli.app, ["registry", *words], env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})


def test_from_scan_to_report(tmp_path: Path) -> None:
    """Catches a command that does not reach its function, or an answer without what was asked for."""
    garden = Gardener(tmp_path / "models", 0)
    one, bad = garden.folder(), garden.clone("pickle")
    out = str(tmp_path / "out")
    assert invoke("scan", str(tmp_path / "models"), "--out", out).exit_code == 0
    found = invoke("query", out, "dangers>0", "--export", str(tmp_path / "x.csv"))
    assert bad.path.name in found.stdout and one.path.name not in found.stdout
    assert bad.path.name in (tmp_path / "x.csv").read_text()
    assert "dangerous: 1" in invoke("report", out).stdout
    verified = invoke("verify", str(bad.path), "--no-run", "--json", str(tmp_path / "audit.json"))
    assert verified.exit_code == 1 and "posix.system" in verified.stdout and (tmp_path / "audit.json").is_file()
    assert invoke("verify", str(one.path), "--no-run").exit_code == 0

"""Commands come from stage definitions, start fast, and answer mistakes with a remedy instead of a traceback."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from pomona.cli import main as cli
from pomona.cli.options import POSITIONAL, command_for, extra_values
from pomona.ground.errors import ConfigError
from pomona.stages import VERBS, stage_class


def invoke(*words: str) -> Any:
    return CliRunner().invoke(cli.app, list(words), env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any], str]]:
    """What the commands hand on to the stages."""
    calls: list[tuple[str, dict[str, Any], str]] = []
    app = typer.Typer()
    for verb in VERBS:
        if verb != "report":
            app.command(verb, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(
                command_for(verb, lambda *given: calls.append(given))
            )
    monkeypatch.setattr(cli, "app", app)
    return calls


def test_every_field_is_an_option_with_its_text() -> None:
    """Catches a field without a command-line form, or a help text that is not the field's own."""
    for verb in VERBS:
        stage = stage_class(verb)
        undescribed = [name for name, field in stage.model_fields.items() if not field.description]
        assert not undescribed, f"{verb}: {undescribed}"
        if verb == "report":
            continue
        shown = plain(invoke(verb, "--help").stdout)
        for name, field in stage.model_fields.items():
            key = field.alias or name
            if key not in ("name", POSITIONAL[verb]):
                assert f"--{key.replace('_', '-')}" in shown, (verb, key)


def test_values_reach_the_stage(called: list[Any]) -> None:
    """Catches words that are not read as YAML, or an input in the wrong place."""
    result = invoke(
        "quantize", "runs/m", "--data", "runs/t", "--method", "gptq", "--bits", "3", "--calibration-tokens=1024",
        "--out", "q",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert called == [
        ("quantize", {"from": "runs/m", "data": "runs/t", "method": "gptq", "bits": 3, "calibration_tokens": 1024}, "q")
    ]


def test_nested_values_and_lists(called: list[Any]) -> None:
    """Catches a method's parameters replacing its name, or lists arriving as text."""
    invoke(
        "pretrain", "runs/t", "--model", "{shape: llama, hidden_size: 8}", "--optimizer", "conda",
        "--optimizer.learning_rate", "1e-2", "--engine.clip=0.5", "--flops-of", "[a, b]", "--out", "m",
    )  # fmt: skip
    values = called[0][1]
    assert values["model"] == {"shape": "llama", "hidden_size": 8}
    assert values["optimizer"] == {"method": "conda", "learning_rate": 0.01}
    assert values["engine"] == {"clip": 0.5} and values["flops_of"] == ["a", "b"]
    invoke("corpus", "a.txt", "env:docs", "--out", "c")
    assert called[1][1] == {"sources": ["a.txt", "env:docs"]}


def test_words_that_are_no_options() -> None:
    """Catches stray words being swallowed."""
    stage = stage_class("grow")
    assert extra_values(["--factor", "2", "--deep", "--order=interleaved"], stage) == {
        "factor": 2, "deep": True, "order": "interleaved",
    }  # fmt: skip
    with pytest.raises(ConfigError, match="unexpected argument 'twice'"):
        extra_values(["twice"], stage)


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["methods", "--all"],
        ["methods", "infinite-lr"],
        ["--version"],
        ["recipes"],
        ["anatomy", "check", "--help"],
    ],
)
def test_looking_imports_no_torch(words: list[str]) -> None:
    """Catches seconds of waiting for a list."""
    code = (
        "import sys\nfrom pomona.cli.main import app\n"
        f"try:\n    app({words!r})\nexcept SystemExit as leave:\n    assert not leave.code\n"
        "heavy = {'torch', 'transformers', 'datasets', 'matplotlib', 'pyarrow'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_import_is_light() -> None:
    """Catches `import pomona` pulling in anything at all, and a name that is promised but absent."""
    code = "import sys, pomona\nassert not {'torch', 'pydantic', 'rich'} & set(sys.modules)\nprint(dir(pomona))"
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    import pomona

    assert pomona.run and pomona.grow.__name__ == "grow" and pomona.stages
    with pytest.raises(AttributeError, match="nothing_here"):
        _ = pomona.nothing_here


def test_clean_lists_before_it_removes(tmp_path: Path) -> None:
    """Catches a command that removes without being told to, or that does not find a run by its recipe's name."""
    old = tmp_path / "garden" / "02-tend-0123456789ab.work"
    old.mkdir(parents=True)
    (old / "count").write_text("1")
    (tmp_path / "garden" / "run.json").write_text('{"stages": {}}')
    words = ["clean", "garden", "--out", str(tmp_path)]
    assert "unfinished work of tend, which has changed" in invoke(*words).stdout and old.is_dir()
    assert "removed" in invoke(*words, "--yes").stdout and not old.exists()
    assert "nothing to remove" in invoke(*words, "--yes").stdout


def run_main(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "pomona", *words], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["pretran"], 2, "pretrain"),
        (["methods", "konda"], 2, "did you mean 'conda'"),
        (["run", "dmeo"], 2, "did you mean 'demo'"),
        (["run", "tiny", "--set", "smal.steps=3"], 2, "did you mean 'small'"),
        (["grow", "nowhere/model", "--factor", "2", "--out", "x"], 2, "--from: there is no folder nowhere/model"),
    ],
)
def test_mistakes_are_answered(words: list[str], code: int, message: str, tmp_path: Path) -> None:
    """Catches tracebacks, wrong exit codes and missing remedies."""
    result = run_main(*words)
    assert result.returncode == code, result.stderr
    assert message in result.stderr and "Traceback" not in result.stderr

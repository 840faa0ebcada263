"""`pomona anatomy` shows parts from a configuration alone, and leaves with an error when a probe fails."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pomona import anatomy
from pomona.anatomy.probes import PROBES
from pomona.anatomy.registry import register, shape_named, unregister
from pomona.anatomy.remedies import REMEDIES
from pomona.anatomy.tiny import TINY, tiny_model
from pomona.cli import main as cli
from pomona.ground.console import output
from pomona.ground.errors import ConfigError, UnsupportedModel


def invoke(*words: str) -> Any:
    output.cache_clear()  # the runner has its own standard output
    try:
        return CliRunner().invoke(cli.app, ["anatomy", *words], env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})
    finally:
        output.cache_clear()


@pytest.fixture
def liar() -> Iterator[str]:
    """A shape that takes a decoder for an encoder."""
    shape = shape_named("gpt2")
    (stack,) = shape.stacks
    register(replace(shape, name="liar", model_types=(), stacks=(replace(stack, causal=False),)))
    yield "liar"
    unregister("liar")


def test_show_tells_equal_blocks_once() -> None:
    """Catches a wall of equal rows, a lost row of another block, and numbers that are not the model's."""
    shown = invoke("show", "llama").stdout
    assert "LlamaForCausalLM (shape llama)" in shown and "blocks 0 to 31" in shown
    assert shown.count("self_attn.q_proj.weight") == 1 and "6,738,415,616" in shown
    assert "32,000 x 4,096" in shown and "pre_norm" in shown and "residual 4,096, head 32 (32 times)" in shown
    shown = invoke("show", "t5", "--tokens", "64").stdout
    assert "encoder 0 " in shown and "encoder 1 to 5" in shown and "sees the encoder" in shown
    assert "at 64 tokens" in shown and "shared.weight = encoder.embed_tokens.weight" in shown


def test_show_says_how_parts_are_stored() -> None:
    """Catches fused, transposed and windowed parts that look like plain ones."""
    shown = invoke("show", "gpt2").stdout
    assert "attn.c_attn.weight (fused, transposed, with bias)" in shown
    assert "4096 at most" in invoke("show", "mistral").stdout


def test_show_reads_no_weights(tmp_path: Path) -> None:
    """Catches waiting for gigabytes to see a table."""
    tiny_model("llama").save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    result = invoke("show", str(tmp_path))
    assert result.exit_code == 0 and "blocks 0 to 2" in result.stdout


def test_check_proves_a_type_and_a_folder(tmp_path: Path) -> None:
    """Catches a check that passes over the model's own weights, or looks at them when told not to."""
    result = invoke("check", "gpt2")
    assert result.exit_code == 0 and "proven as gpt2" in result.stdout and "annotations" in result.stdout
    tiny_model("qwen2").save_pretrained(tmp_path)
    assert "its weights" not in invoke("check", str(tmp_path), "--config-only").stdout
    result = invoke("check", str(tmp_path))
    assert result.exit_code == 0 and result.stdout.count("proven as llama") == 2 and "(its weights)" in result.stdout


def test_failures_are_listed_with_a_remedy(liar: str) -> None:
    """Catches a failed probe that is not printed, is not explained, or does not show in the exit code."""
    result = invoke("check", "gpt2", "--shape", liar)
    assert result.exit_code == 1
    assert "FAILED as liar" in result.stdout and "roles 9 of 15" in result.stdout
    assert "FAIL roles: transformer.h.0 (attention): attention.key" in result.stdout
    assert f"roles: {REMEDIES['roles']}" in result.stdout and "annotations:" not in result.stdout


def test_all_goes_through_every_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a row that is left out, and a refusal that stops the others."""
    asked: list[str] = []

    def quick(model: Any, shape: Any = None) -> Any:
        asked.append(type(model).__name__)
        if asked[-1].startswith("GPT2"):
            raise UnsupportedModel("no part")
        return anatomy.Verification(asked[-1], "some", ())

    monkeypatch.setattr(anatomy, "verify", quick)
    result = invoke("check", "--all")
    assert result.exit_code == 1 and len(asked) == len(TINY)
    assert result.stdout.count("proven as some") == len(TINY) - sum(n.startswith("GPT2") for n in asked)
    assert "gpt2                    refused\n  no part" in result.stdout
    asked.clear()
    assert invoke("check", "--all", "--shape", "t5").exit_code == 0
    assert set(asked) == {"T5ForConditionalGeneration"} and len(asked) == 2


def test_every_probe_has_a_remedy() -> None:
    """Catches a new probe whose failure would leave the reader alone."""
    assert set(REMEDIES) == {probe.__name__.removeprefix("probe_") for probe in PROBES} | {"walk"}
    assert {check.probe for check in anatomy.verify(tiny_model("llama")).checks} <= set(REMEDIES)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["check"], "a MODEL or --all"),
        (["check", "llama", "--all"], "a MODEL or --all"),
        (["check", "--all", "--shape", "lama"], "did you mean 'llama'"),
        (["show", "lama"], "did you mean"),
    ],
)
def test_mistakes(words: list[str], message: str) -> None:
    """Catches a check of nothing that passes."""
    error = invoke(*words).exception
    assert isinstance(error, ConfigError) and message in str(error)


def test_draft_prints_source_and_what_is_open() -> None:
    """Catches a draft that cannot be pasted into a module, or that hides what it did not prove."""
    result = invoke("draft", "stablelm")
    assert result.exit_code == 0 and result.stdout.startswith("from pomona import anatomy\n")
    scope: dict[str, Any] = {}
    exec(result.stdout, scope)
    try:
        assert anatomy.known_shapes()["stablelm"] == scope["STABLELM"] and "checks passed" in result.stdout
    finally:
        unregister("stablelm")

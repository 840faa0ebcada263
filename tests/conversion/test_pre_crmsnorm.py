"""The invariants of the catalog entry of Pre-RMSNorm and Pre-CRMSNorm, on every Pre-LayerNorm model of the anatomy's
table; the others are refused."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

import pomona
from pomona import anatomy
from pomona.anatomy import Anatomy, tap_stream
from pomona.anatomy.inputs import example_inputs
from pomona.anatomy.norms import stream_norms
from pomona.anatomy.probes.check import difference
from pomona.anatomy.probes.lab import enlarged_copy, outputs_of
from pomona.anatomy.tiny import TINY, tiny_model
from pomona.conversion import PreCrmsnormConfig, pre_crmsnorm_
from pomona.conversion.pre_crmsnorm import basis_without_mean, centred
from pomona.ground.errors import DataError, UnsupportedModel
from pomona.stages import call
from tests.tiny import gpt2

EXACT = 1e-9
"""Relative, in float64: the sums are the same but for their order."""
HEADLESS, IN_HEAD, AFTER_EMBEDDING = "which no linear map reads|no final norm", r"head\.|classifier\.", "embedding_norm"
REFUSED = {
    "bert": "residual_stream",
    "opt-post": "residual_stream",
    "llama": "layernorm",
    "gemma2": "layernorm",
    "t5": "single_stack",
    "mixtral": "dense_ffn",
    "esm": IN_HEAD,
    "esm-learned": IN_HEAD,
    "esm-normed": AFTER_EMBEDDING,
    "modernbert": AFTER_EMBEDDING,
    "audio-spectrogram-transformer": IN_HEAD,
    "clip_text_model": HEADLESS,
    "clip_vision_model": HEADLESS,
    "dinov2-gated": HEADLESS,
}
"""What the message names."""


def fits(name: str) -> bool:
    """What the capabilities alone say; what else stands against a conversion is in `REFUSED`."""
    needed = {"single_stack", "layernorm", "residual_stream", "dense_ffn", "free_residual"}
    bodies = list(anatomy.towers(tiny_model(name)).values())
    return len(bodies) == 1 and needed <= bodies[0].capabilities


FITTING = [name for name in TINY if fits(name) and name not in REFUSED]
every_model = pytest.mark.parametrize("name", FITTING)
every_form = pytest.mark.parametrize("form", ["rms", "crms"])
every_case = pytest.mark.parametrize(("name", "form"), [(n, form) for n in FITTING for form in ("rms", "crms")])


def converted(name: str, form: Any) -> tuple[Anatomy, Tensor, Tensor, Any]:
    """A float64 model with large weights, converted; its outputs before and after; the report."""
    body = enlarged_copy(tiny_model(name))
    inputs = example_inputs(body)
    before = outputs_of(body, inputs)
    report = pre_crmsnorm_(body, PreCrmsnormConfig(form=form))
    return body, before, outputs_of(body, inputs), report


def test_there_are_several_shapes() -> None:
    """Catches a table from which the Pre-LayerNorm families have vanished, so that nothing is tested any more."""
    assert {"gpt2", "opt", "gpt_neox", "phi"} <= {anatomy.of(tiny_model(name)).shape.name for name in FITTING}


@every_case
def test_the_function_is_kept(name: str, form: str) -> None:
    """Catches a table, a bias, a class token or a branch that is not centred, a norm's bias that is lost, a head that
    stays tied to the centred embedding, an epsilon that does not follow the width."""
    body, before, after, report = converted(name, form)
    assert difference(after, before) < EXACT and report.difference < EXACT
    assert (report.hidden_before, report.hidden_after) == (32, 31 if form == "crms" else 32)
    assert body.hidden_size == report.hidden_after and body.loads_with == report.loads_with == "pomona"
    for norm, readers in stream_norms(body):
        assert norm.kind == "rms" and isinstance(norm.module, nn.RMSNorm)
        assert norm.bias is None or (form == "rms" and any(reader.bias is None for reader in readers))
    assert body.parameter_count() == report.parameters_after


@every_model
def test_the_stream_has_no_mean(name: str) -> None:
    """Catches a writer that is not centred but happens not to matter, as a position that no test sees."""
    body = converted(name, "rms")[0]
    seen: dict[int, Tensor] = {}
    with tap_stream(body.stacks[0], seen.__setitem__):
        outputs_of(body, example_inputs(body))
    assert len(seen) == len(body.blocks) + 1
    assert all(float((hidden.mean(-1).abs() / hidden.abs().amax(-1)).max()) < 1e-12 for hidden in seen.values())


@every_case
def test_saved_and_loaded_by_pomona(name: str, form: str, tmp_path: Path) -> None:
    """Catches a record that does not say all (kind of norm, epsilon, biases that were added, the untied head), and
    folders that transformers loads as another function: with LayerNorms `rms` is the same, `crms` does not fit."""
    model = tiny_model(name)
    inputs = example_inputs(anatomy.of(model))
    before = outputs_of(anatomy.of(model), inputs)
    pre_crmsnorm_(model, PreCrmsnormConfig(form=form))
    expected = outputs_of(anatomy.of(model), inputs)
    assert difference(expected, before) < 1e-5
    model.save_pretrained(tmp_path)
    loaded = anatomy.load(tmp_path)
    assert type(loaded) is type(model) and torch.equal(outputs_of(anatomy.of(loaded), inputs), expected)
    assert anatomy.shadow(tmp_path).num_parameters() == model.num_parameters()
    record = json.loads((tmp_path / "config.json").read_text())["pomona"]
    assert record["format"] == 2 and record["norms"]["kind"] == "rms"
    assert record["sizes"] == ({"": {"residual": 31}} if form == "crms" else {})
    auto = getattr(transformers, TINY[name].auto)
    if form == "rms":
        elsewhere = outputs_of(anatomy.of(auto.from_pretrained(tmp_path).eval()), inputs)
        assert difference(elsewhere, before) < 1e-5
    else:
        with pytest.raises(RuntimeError, match=r"size mismatch|mismatched"):
            auto.from_pretrained(tmp_path)


def test_the_basis() -> None:
    """Catches columns that are not orthonormal or have a mean, and a CRMSNorm that is not the paper's: of the first
    d - 1 coordinates of x, with the last being minus their sum, sqrt((sum z^2 + (sum z)^2) / d + eps)."""
    for size in (2, 3, 32, 33):
        basis = basis_without_mean(size)
        torch.testing.assert_close(basis.T @ basis, torch.eye(size - 1, dtype=torch.float64), rtol=0, atol=1e-14)
        assert basis.sum(0).abs().max() < 1e-14
        x = centred(torch.randn(5, size, dtype=torch.float64, generator=torch.Generator().manual_seed(size)), -1)
        z, dropped, epsilon = x @ basis, x[:, :-1], 1e-3
        ours = nn.functional.rms_norm(z, (size - 1,), eps=epsilon * size / (size - 1)) * (size / (size - 1)) ** 0.5
        root = ((dropped.square().sum(-1) + dropped.sum(-1).square()) / size + epsilon).sqrt()
        torch.testing.assert_close((ours @ basis.T)[:, :-1], dropped / root[:, None])
        torch.testing.assert_close(ours @ basis.T, nn.functional.layer_norm(x, (size,), eps=epsilon))


@every_form
def test_cached_decoding_is_the_same(form: Any) -> None:
    """Catches a converted model whose cache has the sizes of the old one."""
    model = tiny_model("gpt2")
    ids = torch.arange(1, 7).unsqueeze(0)
    settings = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "attention_mask": torch.ones_like(ids)}
    expected = model.generate(ids, **settings)
    pre_crmsnorm_(model, PreCrmsnormConfig(form=form))
    assert torch.equal(model.generate(ids, **settings), expected)


@every_form
def test_a_converted_model_can_be_edited_stacked_and_trained(form: Any, tmp_path: Path) -> None:
    """Catches a record that an edit or a restack forgets, after which the folder would be built with LayerNorms."""
    model = tiny_model("gpt2")
    pre_crmsnorm_(model, PreCrmsnormConfig(form=form))
    body = anatomy.of(model)
    with body.edit() as edit:
        edit.keep(body.blocks[0].ffn.features, range(100))
    assert body.loads_with == "pomona"
    body.restack_([0, 1, 2, 1])
    model.train()(
        input_ids=torch.ones(1, 4, dtype=torch.long), labels=torch.ones(1, 4, dtype=torch.long)
    ).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    inputs = example_inputs(body)
    expected = outputs_of(anatomy.of(model.eval()), inputs)
    model.save_pretrained(tmp_path)
    loaded = anatomy.of(anatomy.load(tmp_path))
    assert torch.equal(outputs_of(loaded, inputs), expected) and "rmsnorm" in loaded.capabilities


@every_form
@pytest.mark.parametrize("name", ["gpt2", "gpt_neox"])
def test_a_converted_model_passes_every_probe(name: str, form: Any) -> None:
    """Catches an anatomy that says something else about the norms than what they compute now."""
    model = tiny_model(name)
    pre_crmsnorm_(model, PreCrmsnormConfig(form=form))
    failures = [check for check in anatomy.verify(model).failures if check.probe != "sizes"]
    assert not failures, failures


@every_form
@pytest.mark.parametrize("name", [name for name in REFUSED if name in TINY])
def test_refusals(name: str, form: Any) -> None:
    """Catches a model that is converted into another function: post-norm, with RMSNorms, with an encoder, with norms
    after its embeddings or in its head, without a head."""
    model = tiny_model(name)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(UnsupportedModel, match=REFUSED[name]):
        pre_crmsnorm_(model, PreCrmsnormConfig(form=form))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_second_conversion_is_refused() -> None:
    """Catches a form that is converted again: there are no LayerNorms any more."""
    model = tiny_model("gpt2")
    pre_crmsnorm_(model)
    with pytest.raises(UnsupportedModel, match="layernorm"):
        pre_crmsnorm_(model)


def test_what_is_refused_late_leaves_everything_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches norms, ties, biases or fields of the configuration that stay changed when the outputs turn out to
    differ, or when the model turns out to have no head."""
    model = tiny_model("gpt2")
    parameters = {name: id(p) for name, p in model.named_parameters(remove_duplicate=False)}
    config, norm = model.config.to_dict(), model.transformer.h[0].ln_1
    body = anatomy.of(model)
    outputs = outputs_of(body, example_inputs(body))
    monkeypatch.setattr(
        "pomona.conversion.pre_crmsnorm.basis_without_mean", lambda size: torch.eye(size)[:, 1:].double()
    )
    with pytest.raises(UnsupportedModel, match="outputs that differ"):
        pre_crmsnorm_(body)
    assert {name: id(p) for name, p in model.named_parameters(remove_duplicate=False)} == parameters
    assert model.config.to_dict() == config and model.transformer.h[0].ln_1 is norm
    assert torch.equal(outputs_of(body, example_inputs(body)), outputs) and body.ties
    headless = tiny_model("gpt2").transformer
    with pytest.raises(UnsupportedModel, match="which no linear map reads"):
        pre_crmsnorm_(headless)


def test_damaged_records_are_refused(tmp_path: Path) -> None:
    """Catches a record of norms that is applied in part, or silently left out."""
    model = tiny_model("gpt2")
    pre_crmsnorm_(model, PreCrmsnormConfig(form="rms"))
    model.save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    right = {"kind": "rms", "epsilon": 1e-5, "biases": "kept"}
    for norms in (
        {**right, "kind": "batch"},
        {"kind": "rms"},
        {**right, "epsilon": -1.0},
        "rms",
        {**right, "biases": 1},
    ):
        file.write_text(json.dumps({**config, "pomona": {**config["pomona"], "norms": norms}}))
        with pytest.raises(DataError, match="version of pomona that wrote it"):
            anatomy.load(tmp_path)


def test_recipe_command_and_python_are_the_function(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a stage that does not take the method's parameters, hides what loads the result, or saves another."""
    folder = tmp_path / "small"
    gpt2().save_pretrained(folder)
    words = Tokenizer(WordLevel({"apple": 0, "pear": 1}, unk_token="apple"))
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(folder)
    made = call("convert", {"from": str(folder), "form": "rms"}, tmp_path / "stage")
    assert "loads with pomona.anatomy.load only" in " ".join(capsys.readouterr().err.split())
    python = pomona.convert(folder, form="rms", out=tmp_path / "python")
    model = gpt2()
    pre_crmsnorm_(model, PreCrmsnormConfig(form="rms"))
    for artefact in (made, python):
        loaded = anatomy.load(artefact.folder).state_dict()
        assert all(torch.equal(value, loaded[name]) for name, value in model.state_dict().items())
    assert made.facts["note"] == "pre-crmsnorm, form rms" and made.facts["loads_with"] == "pomona"
    assert made.facts["difference"] < 1e-5

"""Encoders and encoder-decoders go through the same stages as causal models, and what does not fit is said at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
)

from pomona.ground.errors import ConfigError, DataError
from pomona.stages import Run, load, run
from pomona.stages.runner import prepare
from pomona.stages.store import Store

BERT = {"shape": "bert", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64,
        "max_position_embeddings": 32, "hidden_dropout_prob": 0.0}  # fmt: skip
T5 = {"shape": "t5", "d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_heads": 2, "dropout_rate": 0.0}


def recipe(texts: Path, tokenize: dict[str, Any], *trained: dict[str, Any], also: tuple[Any, ...] = ()) -> Any:
    shared = {"batch_size": 4, "seq_length": 32, "steps": 30, "validation_tokens": 512}
    return {
        "name": "life",
        "stages": [
            {"corpus": {"sources": [str(texts)], "validation": 0.2}},
            {"tokenize": {"vocab_size": 300, **tokenize}},
            *({"pretrain": {**shared, **stage}} for stage in trained),
            *also,
        ],
    }


def live(texts: Path, tmp_path: Path, tokenize: dict[str, Any], stage: dict[str, Any]) -> Run:
    stage = {"optimizer": {"method": "adamw", "learning_rate": 0.01}, **stage}
    quantize = {"quantize": {"method": "rtn", "group_size": 32, "seq_length": 32, "validation_tokens": 512}}
    examine = {"examine": {"tokens": 512, "seq_length": 32}}
    after = (quantize, examine, {"export": {"from": "pretrain"}}, "report")
    return run(recipe(texts, tokenize, stage, also=after), out=tmp_path / "runs")


def learnt(made: Run) -> bool:
    """Whether held-out loss fell well below that of guessing among all tokens (5.7 nats)."""
    return bool(made["pretrain"].facts["quality"]["nats_per_token"] < 5.0)


def test_an_encoder_learns_to_fill_masks(texts: Path, tmp_path: Path) -> None:
    """Catches stages that take every model for a causal one, and padding that shares a token with the text's end."""
    made = live(texts, tmp_path, {"mask_token": "<mask>"}, {"model": BERT, "objective": "masked-lm"})
    folder = made["export"].folder
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForMaskedLM.from_pretrained(folder)
    assert tokenizer.mask_token == "<mask>"
    assert model.config.pad_token_id == tokenizer.pad_token_id != tokenizer.eos_token_id
    same = AutoModelForMaskedLM.from_pretrained(made["pretrain"].folder)
    ids = tokenizer("apple <mask> pear", return_tensors="pt").input_ids
    assert int((ids == tokenizer.mask_token_id).sum()) == 1
    with torch.no_grad():
        assert torch.equal(model(ids).logits, same(ids).logits)
    assert learnt(made)
    assert made["quantize"].facts["objective"]["method"] == "masked-lm"
    assert "pipeline_tag: fill-mask" in (folder / "README.md").read_text()
    assert (made["report"].folder / "report.html").is_file()


def test_an_encoder_decoder_learns_to_write_spans(texts: Path, tmp_path: Path) -> None:
    """Catches sentinels that are not special tokens, and a decoder whose first token is that of another vocabulary."""
    made = live(texts, tmp_path, {"sentinels": 3}, {"model": T5, "objective": "span-corruption"})
    folder = made["export"].folder
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForSeq2SeqLM.from_pretrained(folder)
    assert tokenizer.convert_ids_to_tokens(tokenizer("<extra_id_2>").input_ids) == ["<extra_id_2>"]
    assert model.config.decoder_start_token_id == tokenizer.pad_token_id != tokenizer.eos_token_id
    ids = tokenizer("apple <extra_id_0> pear", return_tensors="pt").input_ids
    written = model.generate(ids, max_new_tokens=4)
    assert written[0, 0] == tokenizer.pad_token_id and written.shape[1] > 1
    assert learnt(made)
    assert made["quantize"].facts["objective"]["method"] == "span-corruption"
    assert "pipeline_tag: text2text-generation" in (folder / "README.md").read_text()
    assert (made["report"].folder / "report.html").is_file()


def problems_of(values: Any, tmp_path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        prepare(load(values), Store(tmp_path / "runs" / "life"))
    assert not (tmp_path / "runs").exists(), "nothing may be made"
    return str(caught.value)


def test_what_an_objective_lacks_is_found_in_the_plan(texts: Path, tmp_path: Path) -> None:
    """Catches missing special tokens or a wrong kind of model being noticed after the corpus is made."""
    llama = {"shape": "llama", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    few = problems_of(
        recipe(
            texts,
            {"sentinels": 1},
            {"name": "blind", "model": BERT, "objective": "masked-lm"},
            {"name": "few", "model": T5, "objective": "span-corruption"},
            {"name": "one-sided", "model": llama, "objective": "span-corruption"},
            {"name": "apart", "model": T5, "objective": "span-corruption", "seq_length": 16, "respect_documents": True},
        ),
        tmp_path,
    )
    assert "4 problems" in few, few
    assert "stages.2.pretrain.objective: masked-lm needs a mask token" in few and "mask_token: <mask>" in few
    assert "stages.3.pretrain.objective: span-corruption needs a sentinel for each span" in few
    assert "2 sentinels for 32 tokens" in few
    assert "stages.4.pretrain.model: llama cannot be trained with span-corruption" in few
    assert "stages.5.pretrain.objective: span-corruption does not keep packed documents apart" in few
    none = problems_of(recipe(texts, {}, {"model": T5, "objective": "span-corruption"}), tmp_path)
    assert "span-corruption needs sentinels" in none and "`sentinels: 100`" in none
    small = problems_of(recipe(texts, {"sentinels": 50}, {"model": T5, "objective": "span-corruption"}), tmp_path)
    assert "tokenize.vocab_size: the vocabulary is too small" in small and "at least 308" in small


def test_scores_follow_what_models_were_trained_for(texts: Path, tmp_path: Path) -> None:
    """Catches an encoder that is scored as a causal model, or models of two kinds under one number."""
    causal = {"shape": "llama", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    stages = (
        {"name": "masked", "model": BERT, "objective": "masked-lm"},
        {"name": "causal", "model": causal},
    )
    mixed = problems_of(recipe(texts, {"mask_token": "<mask>"}, *stages, also=("examine",)), tmp_path)
    assert "examine.objective: the models were trained for masked-lm and next-token" in mixed
    named = {"examine": {"objective": "next-token", "seq_length": 32}}
    unfit = problems_of(recipe(texts, {"mask_token": "<mask>"}, *stages, also=(named,)), tmp_path)
    assert "examine.objective: next-token cannot run on BertForMaskedLM" in unfit


def test_a_tokenizer_that_is_not_there(texts: Path, tmp_path: Path) -> None:
    """Catches a misspelt tokenizer being found out after the corpus is made."""
    values = recipe(texts, {"vocab_size": None, "tokenizer": str(tmp_path / "nowhere")})
    assert "stages.1.tokenize.tokenizer: there is no tokenizer" in problems_of(values, tmp_path)


def test_a_decoder_learns_with_masked_inputs(texts: Path, tmp_path: Path) -> None:
    """The way of a model without a mask token: its tokenizer and vocabulary get one, it is trained on with masks and
    judged without. Catches a plan that lets unknown tokens pass, and a loss in bits per byte of masked text."""
    shared = {"batch_size": 4, "seq_length": 32, "steps": 6, "validation_tokens": 512}
    llama = {"shape": "llama", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    tokens = {"tokenize": {"name": "masked", "like": "tokenize", "mask_token": "<mask>"}}

    def values(**more: str) -> dict[str, Any]:
        onwards = {"continue": {"name": "on", "data": "masked", "objective": "meap", **shared, **more}}
        made: dict[str, Any] = recipe(texts, {}, {"model": llama, "data": "tokenize"}, also=(tokens, onwards))
        made["stages"].append({"quantize": {"method": "rtn", "data": "masked", "seq_length": 32, "group_size": 32}})
        return made

    assert "the tokens need a vocabulary of 301" in problems_of(values(), tmp_path)
    made = run(values(new_tokens="add"), out=tmp_path / "runs")
    model = AutoModelForCausalLM.from_pretrained(made["on"].folder)
    assert model.config.vocab_size == 301 == len(AutoTokenizer.from_pretrained(made["on"].folder))
    assert made["on"].facts["objective"]["method"] == "meap"
    assert made["quantize"].facts["objective"]["method"] == "next-token"
    assert made["on"].facts["quality"]["bits_per_byte"] > 0


def test_curvature_that_an_objective_cannot_give(texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches compute being spent before the refusal, a budget that leaves out the estimates, and their cost unsaid."""
    from pomona.objectives import NextToken

    model = {"shape": "llama", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
             "intermediate_size": 48, "max_position_embeddings": 32}  # fmt: skip
    sophia = {"method": "sophia", "refresh_steps": 2}
    made = {}
    for name, optimizer in (("sophia", sophia), ("adamw", "adamw")):
        stage = {"model": model, "steps": None, "flops": 4.0e9, "optimizer": optimizer}
        made[name] = run(recipe(texts, {}, stage), out=tmp_path / "runs")["pretrain"]
    ledgers = {name: artefact.ledger() for name, artefact in made.items()}
    assert made["sophia"].facts["steps"] == round(made["adamw"].facts["steps"] / 1.25)
    assert ledgers["sophia"]["purposes"]["curvature"]["flops"] > 0
    totals = [sum(ledger["purposes"][key]["flops"] for key in ledger["purposes"] if key != "evaluate")
              for ledger in ledgers.values()]  # fmt: skip
    assert totals[0] == pytest.approx(totals[1], rel=0.05)
    monkeypatch.setattr(NextToken, "samples_labels", False)
    with pytest.raises(ConfigError, match="estimator: hutchinson"):
        prepare(load(recipe(texts, {}, {"model": model, "optimizer": sophia})), Store(tmp_path / "other"))


@pytest.mark.parametrize("shape", ["bert", "electra"])
def test_an_encoder_learns_what_was_replaced(shape: str, texts: Path, tmp_path: Path) -> None:
    """Catches a generator that is exported, a discriminator whose class has no head for it, a run that goes on with
    another generator, and a finished encoder without a head that is scored by one."""
    model = {**BERT, "shape": shape}
    if shape == "electra":
        model["embedding_size"] = 32
    stage = {"model": model, "objective": {"method": "electra", "generator_size": 0.5}}
    shared = {"batch_size": 4, "seq_length": 32, "steps": 6, "validation_tokens": 512}
    onwards = {"continue": {"objective": stage["objective"], **shared}}
    quantize = {"quantize": {"method": "rtn", "group_size": 32, "seq_length": 32, "validation_tokens": 512}}
    values = recipe(texts, {"mask_token": "<mask>"}, stage, also=(onwards, {"export": {"from": "continue"}}))
    made = run(values, out=tmp_path / "runs")
    folder = made["export"].folder
    architecture = {"bert": "BertModel", "electra": "ElectraForPreTraining"}[shape]
    loaded = AutoModel.from_pretrained(folder) if shape == "bert" else AutoModelForPreTraining.from_pretrained(folder)
    assert loaded.config.architectures == [architecture]
    names = {name for file in folder.glob("*.safetensors") for name in load_file(file)}
    assert names and not any("generator" in name or name.startswith("objective") for name in names)
    assert not (folder / "objective").exists()
    networks = "objective/networks.safetensors"
    first, second = (load_file(made[name].folder / networks) for name in ("pretrain", "continue"))
    moved = max(float((first[name] - second[name]).abs().max()) for name in first)
    assert first.keys() == second.keys() and 0 < moved < 0.05  # six steps on, not a new start
    records = [json.loads(line) for line in (made["continue"].folder / "metrics.jsonl").read_text().splitlines()]
    assert {"generator", "discriminator", "generator_accuracy", "replaced"} == set(records[0]["parts"])
    values["stages"].append(quantize)
    if shape == "bert":
        with pytest.raises(ConfigError, match="electra cannot score BertModel"):
            run(values, out=tmp_path / "runs")
    else:
        assert run(values, out=tmp_path / "runs")["quantize"].facts["quality"]["nats_per_token"] > 0


def test_metadata_goes_through_the_stages(texts: Path, tmp_path: Path) -> None:
    """Catches tokens that forget where documents come from, a stage that reads them in its own order, and a name that
    no document has being found out after training."""
    llama = {"shape": "llama", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    meco = {"method": "meco", "column": "source", "part": "hashed", "template": "{value}\n"}
    made = run(recipe(texts, {}, {"model": llama, "objective": meco, "steps": 10}), out=tmp_path / "runs")
    facts = made["pretrain"].facts
    assert facts["objective"]["method"] == "meco" and facts["steps"] == 10 and facts["quality"]["bits_per_byte"] > 0
    wrong = {**meco, "column": "url"}
    with pytest.raises(DataError, match="no document of the train split has 'url'"):
        run(recipe(texts, {}, {"model": llama, "objective": wrong, "steps": 10}), out=tmp_path / "runs")


@pytest.mark.parametrize("shape", ["llama", "t5"])
def test_one_recipe_for_decoders_and_pairs(shape: str, texts: Path, tmp_path: Path) -> None:
    """Catches a mixture that takes the wrong class of transformers, or that the plan and later stages do not know."""
    llama = {"shape": "llama", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    special = {"sentinels": 8, "special_tokens": ["[R]", "[S]", "[X]"]}
    denoisers = [{"mode": "R", "density": 0.2, "mean_span": 3}, {"mode": "S", "density": 0.25}]
    mixture = {"method": "ul2", "denoisers": denoisers}
    stage = {"model": llama if shape == "llama" else T5, "objective": mixture}
    made = live(texts, tmp_path, special, stage)
    assert made["pretrain"].facts["objective"]["denoisers"][1]["mode"] == "S"
    assert made["quantize"].facts["objective"]["method"] == "ul2"
    architecture = json.loads((made["export"].folder / "config.json").read_text())["architectures"]
    assert architecture == ["LlamaForCausalLM" if shape == "llama" else "T5ForConditionalGeneration"]
    missing = problems_of(recipe(texts, {"sentinels": 8}, stage), tmp_path / "other")
    assert "ul2 needs a token for each mode" in missing and "special_tokens: ['[R]', '[S]', '[X]']" in missing

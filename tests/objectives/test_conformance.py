"""What every objective keeps to."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from pomona import anatomy
from pomona.anatomy import Anatomy
from pomona.anatomy.tiny import tiny_model
from pomona.engine import AuxiliaryObjective, FitConfig, attach, fit
from pomona.engine.head_loss import drawn_labels
from pomona.engine.protocols import IGNORED, Objective, SamplesLabels, count_targets
from pomona.ground.config import MethodConfig
from pomona.ground.errors import UnsupportedModel
from pomona.optimizers import AdamwConfig
from tests import tiny
from tests.conformance import methods_of, slug_of
from tests.tiny import VOCABULARY

METHODS = methods_of("objective")
QUIET = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
FAMILIES = {
    **tiny.FAMILIES,
    "roberta": lambda: tiny_model("roberta", **QUIET).train(),
    "electra": lambda: tiny_model("electra", **QUIET).train(),
    "discriminator": lambda: tiny_model("electra-discriminator", **QUIET).train(),
    "rotary": lambda: tiny_model("esm", **QUIET).train(),
    "bart": lambda: tiny_model("bart", dropout=0.0).train(),
}
"""Two or more of every kind: causal, bidirectional, encoder and decoder."""
every_method = pytest.mark.parametrize("method", METHODS, ids=slug_of)


def tokenizer() -> PreTrainedTokenizerFast:
    """A vocabulary with every special token that an objective may ask for; 16 of them, then words."""
    specials = ["<pad>", "<eos>", "<mask>", "<unk>", *(f"<extra_id_{n}>" for n in range(9)), "[R]", "[S]", "[X]"]
    words = specials + [f"{'Ġ' if n % 3 else ''}w{n}" for n in range(VOCABULARY - len(specials))]
    model = models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>")
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(model),
        pad_token="<pad>",
        eos_token="<eos>",
        mask_token="<mask>",
        unk_token="<unk>",
        extra_special_tokens=specials[4:],
    )


def objective(method: type[MethodConfig]) -> Any:
    return method().build(tokenizer())  # type: ignore[attr-defined]


def batch(rows: int = 4, length: int = 40) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {"tokens": torch.randint(16, VOCABULARY, (rows, length + 1), generator=generator)}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def fitting(method: type[MethodConfig]) -> list[tuple[Any, Anatomy]]:
    """The objective with each of the tiny models that it takes, its networks made for it."""
    taken = []
    for make in FAMILIES.values():
        made, body = objective(method), anatomy.of(make())
        try:
            attach(made, body, seed=0)
            made(body, made.prepare(batch(), seeded()))
        except UnsupportedModel:
            continue
        taken.append((made, body))
    assert taken, "no tiny model fits: nothing would be tested"
    return taken


def parameters(made: Any, body: Anatomy) -> dict[str, torch.nn.Parameter]:
    """Everything that is trained."""
    own = dict(made.named_parameters()) if isinstance(made, AuxiliaryObjective) else {}
    named = {**{f"model.{n}": p for n, p in body.model.named_parameters()}, **{f"own.{n}": p for n, p in own.items()}}
    return {name: parameter for name, parameter in named.items() if parameter.requires_grad}


def gradients(made: Any, body: Anatomy, *batches: dict[str, Tensor]) -> dict[str, Tensor]:
    """Those of the summed loss of some batches."""
    named = parameters(made, body)
    for parameter in named.values():
        parameter.grad = None
    for each in batches:
        made(body, each).total.backward()
    return {name: parameter.grad for name, parameter in named.items() if parameter.grad is not None}


@every_method
def test_fulfils_the_protocol(method: type[MethodConfig]) -> None:
    """Catches a missing attribute that the training loop reads."""
    made = objective(method)
    assert isinstance(made, Objective) and made.name == slug_of(method)


@every_method
def test_prepare_is_pure(method: type[MethodConfig]) -> None:
    """Catches randomness from elsewhere and edits of the stream's tensors: a resumed run prepares the same batch."""
    made, raw = objective(method), batch()
    before = raw["tokens"].clone()
    torch.manual_seed(1)
    one = made.prepare(raw, seeded())
    torch.manual_seed(2)
    other = made.prepare(raw, seeded())
    assert torch.equal(raw["tokens"], before)
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    one["input_ids"].zero_()
    assert torch.equal(raw["tokens"], before)


@every_method
def test_labels(method: type[MethodConfig]) -> None:
    """Catches labels that nothing predicts, other than tokens, or none at all; rows are the first axis everywhere."""
    prepared = objective(method).prepare(batch(), seeded())
    labels = prepared["labels"]
    counted = labels != IGNORED
    assert counted.any(1).all() and ((labels[counted] >= 0) & (labels[counted] < VOCABULARY)).all()
    assert all(tensor.shape[0] == 4 for tensor in prepared.values())
    assert prepared["input_ids"].dtype == labels.dtype == torch.int64


def scores_tokens(made: Any) -> bool:
    """Whether the loss is what transformers computes from `input_ids` and `labels`. Other objectives, with networks of
    their own or another attention, are compared with a slow reference in their own test."""
    keys = made.prepare(batch(), seeded()).keys()
    return not isinstance(made, AuxiliaryObjective) and keys <= {"input_ids", "labels"}


@every_method
def test_loss_is_the_models_own(method: type[MethodConfig]) -> None:
    """Parity with transformers' cross-entropy over the same labels: catches labels that are off by one, a mean in the
    place of a sum, a wrong count, and a head that is not the model's."""
    for made, body in fitting(method):
        prepared = made.prepare(batch(), seeded())
        labels = prepared["labels"]
        inputs = {"input_ids": prepared["input_ids"]}
        with torch.no_grad():  # only an evaluation asks for the number of correct predictions
            loss = made(body, prepared)
        assert int(loss.targets) == count_targets(prepared) == int((labels != IGNORED).sum())
        if not scores_tokens(made):
            continue
        given = {"labels": labels} if "encoder_decoder" in body.capabilities else {}
        logits = body.model(**inputs, **given).logits
        wanted = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
        torch.testing.assert_close(loss.total, wanted, rtol=1e-5, atol=1e-4)
        assert int(loss.correct) == int(((logits.argmax(-1) == labels) & (labels != IGNORED)).sum())


@every_method
def test_gradients_are_the_models_own(method: type[MethodConfig]) -> None:
    """Parity of gradients with transformers' loss, for every parameter that the loss reaches."""
    made, body = fitting(method)[0]
    if not scores_tokens(made):
        return
    prepared = made.prepare(batch(), seeded())
    ours = gradients(made, body, prepared)
    body.model.zero_grad(set_to_none=True)
    if "encoder_decoder" in body.capabilities:
        loss = body.model(input_ids=prepared["input_ids"], labels=prepared["labels"]).loss * count_targets(prepared)
    else:
        logits = body.model(input_ids=prepared["input_ids"]).logits.flatten(0, 1)
        loss = torch.nn.functional.cross_entropy(logits, prepared["labels"].flatten(), reduction="sum")
    loss.backward()
    theirs = {f"model.{name}": p.grad for name, p in body.model.named_parameters() if p.grad is not None}
    assert ours.keys() == theirs.keys()
    for name, grad in ours.items():
        torch.testing.assert_close(grad, theirs[name], rtol=1e-3, atol=1e-4)


@every_method
def test_gradients_reach_every_block(method: type[MethodConfig]) -> None:
    """Catches a detached path: every linear map and norm of the model's blocks learns, and so do the objective's
    networks where they are used."""
    for made, body in fitting(method):
        found = gradients(made, body, made.prepare(batch(), seeded()))
        for weight in (part for block in body.blocks for part in block.parts()):
            # What a softmax shifts alike for all keys has no gradient but rounding.
            assert f"model.{weight.name}" in found, f"{weight.name} of {type(body.model).__name__} learns nothing"
        for each in body.companions:
            if isinstance(each, Anatomy):
                assert all(p.grad is not None and p.grad.any() for _, p in each.matrices())


@every_method
def test_rows_are_independent(method: type[MethodConfig]) -> None:
    """Catches a loss that depends on how the batch is cut: loss and gradients summed over rows are those of the batch,
    so accumulation over micro-batches and processes is exact."""
    for made, body in fitting(method):
        prepared = made.prepare(batch(), seeded())
        rows = [{name: tensor[row : row + 1] for name, tensor in prepared.items()} for row in range(4)]
        whole, parts = made(body, prepared), [made(body, row) for row in rows]
        torch.testing.assert_close(sum(part.total for part in parts), whole.total, rtol=1e-5, atol=1e-4)
        assert sum(int(part.targets) for part in parts) == int(whole.targets)
        together, apart = gradients(made, body, prepared), gradients(made, body, *rows)
        assert together.keys() == apart.keys()
        for name, grad in together.items():
            torch.testing.assert_close(apart[name], grad, rtol=1e-3, atol=1e-4 * max(1.0, float(grad.abs().max())))


@every_method
def test_special_tokens_are_left_alone(method: type[MethodConfig]) -> None:
    """Catches the end of a text being hidden or exchanged: where an objective keeps places, special tokens keep
    theirs."""
    made, raw = objective(method), batch()
    raw["tokens"][:, ::5] = 1
    prepared = made.prepare(raw, seeded())
    if prepared["input_ids"].shape == raw["tokens"][:, :-1].shape:
        assert (prepared["input_ids"][:, ::5] == 1).all()


def flat(step: int) -> float:
    return 1.0


class Texts:
    """A stream of random tokens."""

    def batch(self, step: int, rank: int = 0, *, micro_batches: int = 1) -> list[dict[str, Tensor]]:
        tokens = torch.randint(16, VOCABULARY, (4, 25), generator=torch.Generator().manual_seed(step))
        return [{"tokens": part} for part in tokens.chunk(micro_batches)]


@every_method
def test_a_resumed_run_is_the_uninterrupted_one(method: type[MethodConfig], tmp_path: Path) -> None:
    """Catches corruption that depends on when a run started, and networks of an objective that a checkpoint lacks:
    weights are equal bit for bit."""
    config = FitConfig(compile="never", precision="fp32", checkpoint_minutes=1e-9)
    found = []
    for run in ("whole", "resumed"):
        made, body = fitting(method)[0]
        optimizer = AdamwConfig(learning_rate=0.01).build(body, total_steps=4)
        training = fit(body.model, made, Texts(), optimizer, flat, steps=4, config=config, folder=tmp_path)
        assert (training.ledger.steps, len(training.records)) == (4, 2)
        found.append({name: parameter.detach().clone() for name, parameter in parameters(made, body).items()})
        if run == "whole":
            shutil.rmtree(tmp_path / "checkpoints" / "step-00000003")
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    before = parameters(*fitting(method)[0])
    for prefix in {name.partition(".")[0] for name in before}:
        assert any(not torch.equal(found[0][name], before[name]) for name in before if name.startswith(prefix))


@every_method
def test_draws_are_of_counted_targets(method: type[MethodConfig]) -> None:
    """Catches an objective that says it can draw labels and scores the true ones, or draws them where nothing counts:
    the loss is transformers' cross-entropy to the labels that the same draws give."""
    made = objective(method)
    if not (isinstance(made, SamplesLabels) and made.samples_labels):
        return
    made, body = fitting(method)[0]
    prepared = made.prepare(batch(), seeded())
    labels, draws = prepared["labels"], torch.rand(prepared["labels"].shape, generator=seeded(1))
    with torch.no_grad():
        loss = made(body, {**prepared, "draws": draws})
        given = {"labels": labels} if "encoder_decoder" in body.capabilities else {}
        logits = body.model(input_ids=prepared["input_ids"], **given).logits.flatten(0, 1)
    drawn = drawn_labels(logits, labels.flatten(), draws.flatten())
    wanted = torch.nn.functional.cross_entropy(logits, drawn, reduction="sum")
    torch.testing.assert_close(loss.total, wanted, rtol=1e-4, atol=1e-3)
    assert not torch.equal(drawn, labels.flatten()) and int(loss.targets) == count_targets(prepared)


CAUSAL, ENCODERS, PAIRS = {"llama", "gpt2"}, {"bert", "roberta", "electra", "rotary"}, {"t5", "bart"}
TAKEN = {
    "next-token": CAUSAL,
    "meap": CAUSAL,
    "meco": CAUSAL,
    "masked-lm": ENCODERS,
    "electra": {*ENCODERS, "discriminator"},
    "span-corruption": PAIRS,
    "ul2": {*CAUSAL, *PAIRS},
    "mp3-position-prediction": {*ENCODERS, "discriminator"},
}
"""The tiny families that the objectives of this house take; that of another package says it in its own test."""


@every_method
def test_takes_and_refuses_families(method: type[MethodConfig]) -> None:
    """Catches an objective that runs on a model it was not made for, and a check for plans that says other things than
    the call itself."""
    prepared = objective(method).prepare(batch(), seeded())
    taken = set()
    for name, make in FAMILIES.items():
        made, body = objective(method), anatomy.of(make())
        try:
            attach(made, body, seed=0)
            made.check(body)
        except UnsupportedModel as refusal:
            with pytest.raises(UnsupportedModel) as again:
                made(body, prepared)
            assert str(again.value).partition("\n")[0] == str(refusal).partition("\n")[0]
        else:
            assert torch.isfinite(made(body, prepared).total)
            taken.add(name)
    assert taken == TAKEN.get(slug_of(method), taken) and taken


def test_vocabulary_of_the_fixture() -> None:
    """Catches a fixture that no longer has what the objectives need."""
    made = tokenizer()
    assert len(made) == VOCABULARY and len(made.all_special_ids) == 16

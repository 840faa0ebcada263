"""What every objective keeps to."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from pomona import anatomy
from pomona.anatomy import Anatomy
from pomona.engine.head_loss import drawn_labels
from pomona.engine.protocols import IGNORED, Objective, SamplesLabels, count_targets
from pomona.ground.config import MethodConfig
from pomona.ground.errors import UnsupportedModel
from tests.conformance import check_card, check_listed, methods_of, slug_of
from tests.tiny import FAMILIES, VOCABULARY

METHODS = methods_of("objective")
every_method = pytest.mark.parametrize("method", METHODS, ids=slug_of)


def tokenizer() -> PreTrainedTokenizerFast:
    """A vocabulary with every special token that an objective may ask for; 16 of them, then words."""
    specials = ["<pad>", "<eos>", "<mask>", "<unk>", *(f"<extra_id_{n}>" for n in range(12))]
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


def bodies(made: Any) -> list[Anatomy]:
    """The tiny models that an objective takes."""
    taken = []
    for make in FAMILIES.values():
        body = anatomy.of(make())
        try:
            made(body, made.prepare(batch(), seeded()))
        except UnsupportedModel:
            continue
        taken.append(body)
    assert taken, "no tiny model fits: nothing would be tested"
    return taken


def test_all_are_listed() -> None:
    """Catches an objective that this suite does not see."""
    assert len(METHODS) >= 3
    check_listed("objective", "pomona.objectives")


@every_method
def test_card(method: type[MethodConfig]) -> None:
    """Catches an objective without source, formula or described fields."""
    check_card(method)


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


@every_method
def test_loss_is_the_models_own(method: type[MethodConfig]) -> None:
    """Parity with transformers' cross-entropy over the same labels: catches labels that are off by one, a mean in the
    place of a sum, a wrong count, and a head that is not the model's."""
    made = objective(method)
    for body in bodies(made):
        prepared = made.prepare(batch(), seeded())
        labels = prepared["labels"]
        inputs = {"input_ids": prepared["input_ids"]}
        with torch.no_grad():  # only an evaluation asks for the number of correct predictions
            loss = made(body, prepared)
        if "encoder_decoder" in body.capabilities:
            logits = body.model(**inputs, labels=labels).logits
        else:
            logits = body.model(**inputs).logits
        wanted = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
        torch.testing.assert_close(loss.total, wanted, rtol=1e-5, atol=1e-4)
        assert int(loss.targets) == count_targets(prepared) == int((labels != IGNORED).sum())
        assert int(loss.correct) == int(((logits.argmax(-1) == labels) & (labels != IGNORED)).sum())


@every_method
def test_gradients_are_the_models_own(method: type[MethodConfig]) -> None:
    """Parity of gradients with transformers' loss, for every parameter that the loss reaches."""
    made = objective(method)
    body = bodies(made)[0]
    prepared = made.prepare(batch(), seeded())
    grads = []
    for own in (True, False):
        body.model.zero_grad(set_to_none=True)
        if own:
            loss = made(body, prepared).total
        elif "encoder_decoder" in body.capabilities:
            loss = body.model(input_ids=prepared["input_ids"], labels=prepared["labels"]).loss * count_targets(prepared)
        else:
            logits = body.model(input_ids=prepared["input_ids"]).logits.flatten(0, 1)
            loss = torch.nn.functional.cross_entropy(logits, prepared["labels"].flatten(), reduction="sum")
        loss.backward()
        grads.append({name: p.grad for name, p in body.model.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys()
    for name, grad in grads[0].items():
        torch.testing.assert_close(grad, grads[1][name], rtol=1e-3, atol=1e-4)


@every_method
def test_rows_are_independent(method: type[MethodConfig]) -> None:
    """Catches a loss that depends on how the batch is cut: the sum over rows is the loss of the batch."""
    made = objective(method)
    prepared = made.prepare(batch(), seeded())
    for body in bodies(made):
        whole = made(body, prepared)
        parts = [made(body, {name: tensor[row : row + 1] for name, tensor in prepared.items()}) for row in range(4)]
        torch.testing.assert_close(sum(part.total for part in parts), whole.total, rtol=1e-5, atol=1e-4)
        assert sum(int(part.targets) for part in parts) == int(whole.targets)


@every_method
def test_draws_are_of_counted_targets(method: type[MethodConfig]) -> None:
    """Catches an objective that says it can draw labels and scores the true ones, or draws them where nothing counts:
    the loss is transformers' cross-entropy to the labels that the same draws give."""
    made = objective(method)
    if not (isinstance(made, SamplesLabels) and made.samples_labels):
        return
    body = bodies(made)[0]
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


TAKEN = {"next-token": {"llama", "gpt2"}, "meap": {"llama", "gpt2"}, "masked-lm": {"bert"}, "span-corruption": {"t5"}}
"""The tiny families that the objectives of this house take; that of another package says it in its own test."""


@every_method
def test_takes_and_refuses_families(method: type[MethodConfig]) -> None:
    """Catches an objective that runs on a model it was not made for, and a check for plans that says other things than
    the call itself."""
    made = objective(method)
    prepared = made.prepare(batch(), seeded())
    taken = set()
    for name, make in FAMILIES.items():
        body = anatomy.of(make())
        try:
            made.check(body)
        except UnsupportedModel as refusal:
            with pytest.raises(UnsupportedModel) as again:
                made(body, prepared)
            assert str(again.value) == str(refusal)
        else:
            assert torch.isfinite(made(body, prepared).total)
            taken.add(name)
    assert taken == TAKEN.get(slug_of(method), taken) and taken


def test_vocabulary_of_the_fixture() -> None:
    """Catches a fixture that no longer has what the objectives need."""
    made = tokenizer()
    assert len(made) == VOCABULARY and len(made.all_special_ids) == 16

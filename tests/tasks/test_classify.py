"""Classifiers: made of any base, scored, trained, saved as ordinary folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from pomona import anatomy
from pomona.data.tokenizer import untrained_tokenizer
from pomona.engine import FitConfig, fit
from pomona.ground.errors import UnsupportedModel
from pomona.optimizers.adamw import AdamwConfig
from pomona.tasks import Classify, Example, ExampleStream, classifier_for, encode, held_out_batches, ready_tokenizer
from pomona.tasks.classifier import from_base, head_of, shape_of
from pomona.tasks.classify import macro_f1, score
from tests.tiny import bert, gpt2, llama, t5

LABELS = ("apple", "pear", "plum")
FAMILIES = {"bert": bert, "gpt2": gpt2, "llama": llama}
TEXTS = [
    Example(f"{word * (1 + number % 4)} no {number}", LABELS[index])
    for number in range(24)
    for index, word in enumerate(("aaaa ", "ee ii ", "zz"))
]


def base(family: str) -> Any:
    """A tiny model with the vocabulary of the byte tokenizer."""
    return FAMILIES[family](vocab_size=272, max_position_embeddings=64)


def tokenizer() -> Any:
    return untrained_tokenizer()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_base_is_kept_and_the_head_is_new(family: str) -> None:
    """Catches a body that starts from random weights, and a head that is not drawn from the seed."""
    model = base(family)
    made, again, other = (from_base(model, LABELS, tokenizer(), seed=seed) for seed in (0, 0, 1))
    ids = torch.arange(12).reshape(2, 6) + 20
    ours, theirs = made.eval().base_model(input_ids=ids)[0], model.eval().base_model(input_ids=ids)[0]
    assert torch.equal(ours, theirs)
    assert made.config.id2label == dict(enumerate(LABELS)) and made.config.pad_token_id is not None
    heads = [torch.cat([p.flatten() for p in head_of(each)]) for each in (made, again, other)]
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])
    shape = shape_of(model, LABELS)
    assert {n: p.shape for n, p in shape.named_parameters()} == {n: p.shape for n, p in made.named_parameters()}


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_changes_nothing(family: str) -> None:
    """Catches a padding token that the model is not told of: a decoder would read the answer off the padding."""
    body = anatomy.of(from_base(base(family), LABELS, tokenizer()).eval())
    encoded = encode(TEXTS, LABELS, ready_tokenizer(tokenizer(), body.model), 48)
    alone = [score(body, [batch]).nats for batch in held_out_batches(encoded, batch_size=1)]
    together = score(body, held_out_batches(encoded, batch_size=72))
    assert together.nats == pytest.approx(sum(alone) / 72, rel=1e-5) and together.examples == 72


@pytest.mark.parametrize("family", FAMILIES)
def test_a_trained_classifier_is_an_ordinary_folder(family: str, tmp_path: Path) -> None:
    """Catches a loss that does not reach the model, and a folder that transformers reads in another way."""
    made, words = from_base(base(family), LABELS, tokenizer()), tokenizer()
    ready_tokenizer(words, made)
    encoded = encode(TEXTS, LABELS, words, 48)
    body, batches = anatomy.of(made), held_out_batches(encoded)
    optimizer = AdamwConfig(learning_rate=3e-3).build(body, total_steps=60)
    fit(
        made,
        Classify(),
        ExampleStream(encoded, batch_size=24),
        optimizer,
        lambda step: 1.0,
        steps=60,
        config=FitConfig(precision="fp32", compile="never"),
    )
    scores = score(body, batches)
    assert scores.accuracy > 0.8 and scores.macro_f1 > 0.7
    made.save_pretrained(tmp_path)
    words.save_pretrained(tmp_path)
    theirs = transformers.pipeline("text-classification", model=str(tmp_path))
    answers = [each["label"] for each in theirs([example.text for example in TEXTS], truncation=True, max_length=48)]
    right = [answer == example.label for answer, example in zip(answers, TEXTS, strict=True)]
    assert sum(right) / len(right) == pytest.approx(scores.accuracy, abs=1.5 / 72)
    kept = classifier_for(tmp_path, LABELS, words, seed=5)
    assert all(torch.equal(a, b) for a, b in zip(kept.parameters(), made.parameters(), strict=True))


def test_macro_f1_by_hand() -> None:
    """Catches a mean over texts in place of labels: label 0 has F1 2/3, label 1 has 4/5, label 2 has 0."""
    right, guessed = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 1, 1])
    assert macro_f1(right, guessed, 3) == pytest.approx((2 / 3 + 4 / 5 + 0) / 3)


@torch.no_grad()
def test_summed_nats() -> None:
    """Catches a mean where the training loop needs a sum: gradients would depend on how the batch is cut."""
    body = anatomy.of(from_base(base("bert"), LABELS, tokenizer()).eval())
    (batch,) = held_out_batches(encode(TEXTS[:6], LABELS, ready_tokenizer(tokenizer()), 48))
    loss = Classify()(body, batch)
    halves = [
        Classify()(body, {name: value[part] for name, value in batch.items()}) for part in (slice(3), slice(3, 6))
    ]
    assert loss.targets == 6
    assert float(loss.total) == pytest.approx(sum(float(each.total) for each in halves), rel=1e-5)


def test_encoders_begin_with_a_special_token() -> None:
    """Catches a head that reads the first word of a text; a decoder's texts stay as they are."""
    words = tokenizer()
    assert words("abc")["input_ids"][0] != words.bos_token_id
    decoder = ready_tokenizer(tokenizer(), from_base(base("gpt2"), LABELS, words))
    assert decoder("abc")["input_ids"] == words("abc")["input_ids"]
    encoder = ready_tokenizer(tokenizer(), from_base(base("bert"), LABELS, words))
    assert encoder("abc")["input_ids"] == [words.bos_token_id, *words("abc")["input_ids"]]


def test_refusals() -> None:
    """Catches models that would be trained to do something else."""
    with pytest.raises(UnsupportedModel, match=r"tasks\.classifier_for"):
        Classify().check(anatomy.of(bert()))
    with pytest.raises(UnsupportedModel, match="one stack"):
        Classify().check(anatomy.of(shape_of(t5(), LABELS)))

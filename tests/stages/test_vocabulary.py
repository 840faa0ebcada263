"""New tokens: old ones keep their rows, new ones start as the mean, and the folder says how many there are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from pomona import anatomy
from pomona.stages.vocabulary import widen_vocabulary_
from tests.tiny import VOCABULARY, bert, gpt2, llama, t5

IDS = torch.arange(12).view(2, 6)


@pytest.mark.parametrize(
    "model",
    [llama(), llama(tie_word_embeddings=False), gpt2(), bert(), t5()],
    ids=["tied", "untied", "gpt2", "bert", "t5"],
)
def test_old_tokens_stay_as_they_are(model: Any) -> None:
    """Catches rows that move, a head that is forgotten, a bias of the wrong length, and a configuration left behind."""
    model.eval()
    inputs = {"input_ids": IDS, **({"decoder_input_ids": IDS} if model.config.is_encoder_decoder else {})}
    body = anatomy.of(model)
    with torch.no_grad():
        before = model(**inputs).logits
        assert widen_vocabulary_(body, VOCABULARY + 5)
        after = model(**inputs).logits
    torch.testing.assert_close(after[..., :VOCABULARY], before)
    torch.testing.assert_close(after[..., VOCABULARY:], before.mean(-1, keepdim=True).expand(-1, -1, 5))
    assert model.config.vocab_size == body.vocab_size == VOCABULARY + 5
    table = model.get_input_embeddings().weight
    torch.testing.assert_close(table[VOCABULARY:], table[:VOCABULARY].mean(0).expand(5, -1))


def test_a_vocabulary_that_is_large_enough() -> None:
    """Catches spare rows being cut off."""
    model = llama()
    before = model.get_input_embeddings().weight
    assert not widen_vocabulary_(model, VOCABULARY - 1)
    assert model.get_input_embeddings().weight is before


def test_on_the_meta_device_and_in_a_folder(tmp_path: Path) -> None:
    """Catches a plan that needs weights, and a folder that transformers loads with the old size."""
    with torch.device("meta"):
        shape = AutoModelForCausalLM.from_config(llama().config)
    assert widen_vocabulary_(shape, VOCABULARY + 1) and shape.config.vocab_size == VOCABULARY + 1
    model = llama()
    widen_vocabulary_(model, VOCABULARY + 1)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(loaded.get_input_embeddings().weight, model.get_input_embeddings().weight)

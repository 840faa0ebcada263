"""Next-token prediction, and documents that do not see one another."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from pomona import anatomy
from pomona.anatomy import use_attention
from pomona.engine.protocols import IGNORED
from pomona.ground.errors import ConfigError, UnsupportedModel
from pomona.objectives import NextToken
from pomona.objectives.documents import positions_within
from tests.tiny import VOCABULARY, bert, gpt2, llama

NOBODY = torch.Generator()
DOCUMENTS = torch.tensor([[0] * 7 + [1] * 10, [3] * 17, [0] + [1] + [2] * 15])
KERNELS = ["eager", "sdpa", "explicit"]


def tokens(seed: int = 0) -> Tensor:
    return torch.randint(0, VOCABULARY, (3, 17), generator=torch.Generator().manual_seed(seed))


def with_kernel(model: Any, kernel: str) -> anatomy.Anatomy:
    if kernel == "explicit":
        use_attention(model, "explicit")
    else:
        model.set_attn_implementation(kernel)
    return anatomy.of(model.eval())


def test_by_hand() -> None:
    """Catches labels off by one: the label at a position is the token that follows it."""
    made = NextToken().prepare({"tokens": torch.tensor([[5, 6, 7, 8]])}, NOBODY)
    assert made["input_ids"].tolist() == [[5, 6, 7]] and made["labels"].tolist() == [[6, 7, 8]]
    assert set(made) == {"input_ids", "labels"}


def test_documents_by_hand() -> None:
    """Catches positions that run on over a boundary, and the first token of a document being predicted from the last
    of another; the boundary between the last input and the look-ahead counts too."""
    raw = {"tokens": torch.tensor([[5, 6, 7, 8, 9, 4]]), "documents": torch.tensor([[0, 0, 1, 1, 1, 2]])}
    made = NextToken().prepare(raw, NOBODY)
    assert made["position_ids"].tolist() == [[0, 1, 0, 1, 2]]
    assert made["labels"].tolist() == [[6, IGNORED, 8, 9, IGNORED]]


def test_positions_within() -> None:
    """Catches documents of one token, equal numbers in different rows, and a window that starts within a document."""
    assert positions_within(DOCUMENTS[2:, :5]).tolist() == [[0, 0, 0, 1, 2]]
    assert positions_within(torch.tensor([[9, 9, 9]])).tolist() == [[0, 1, 2]]


@pytest.mark.parametrize("make", [llama, gpt2], ids=["llama", "gpt2"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_documents_do_not_see_one_another(make: Any, kernel: str) -> None:
    """Tokens of one document do not influence the logits of another, in a batch of several rows and with every
    kernel; within the document they do."""
    body = with_kernel(make(initializer_range=0.3), kernel)
    objective = NextToken()
    changed = tokens()
    changed[:, :2] = (changed[:, :2] + 1) % VOCABULARY  # within the first document of each row

    def logits(of: Tensor) -> Tensor:
        made = objective.prepare({"tokens": of, "documents": DOCUMENTS}, NOBODY)
        with torch.no_grad():
            return body.logits(body.hidden(input_ids=made["input_ids"], position_ids=made["position_ids"]))

    difference = (logits(tokens()) - logits(changed)).abs().amax(-1)
    assert difference[0, :7].min() > 1e-4 and not difference[0, 7:].any()
    assert difference[1].min() > 1e-4  # one document: everything after the change feels it
    assert difference[2, :2].min() > 1e-4 and not difference[2, 2:].any()


@pytest.mark.parametrize("make", [llama, gpt2], ids=["llama", "gpt2"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_packed_documents_equal_documents_apart(make: Any, kernel: str) -> None:
    """Catches positions or masks that are wrong by a constant: the loss of a packed window is the sum of the losses of
    its documents, each in a window of its own."""
    body = with_kernel(make(initializer_range=0.3), kernel)
    objective, raw = NextToken(), tokens()
    packed = objective(body, objective.prepare({"tokens": raw, "documents": DOCUMENTS}, NOBODY))
    apart, targets = torch.zeros(()), 0
    for row, numbers in zip(raw, DOCUMENTS, strict=True):
        for number in numbers.unique():
            document = row[numbers == number].unsqueeze(0)
            if document.shape[1] > 1:
                loss = objective(body, objective.prepare({"tokens": document}, NOBODY))
                apart, targets = apart + loss.total, targets + int(loss.targets)
    torch.testing.assert_close(packed.total, apart, rtol=1e-5, atol=1e-4)
    assert int(packed.targets) == targets


def test_without_documents_the_window_is_one_text() -> None:
    """Catches a mask that is made though nobody asked: the first token then matters to the last."""
    body, objective = anatomy.of(llama(initializer_range=0.3).eval()), NextToken()
    one, other = tokens(), tokens()
    other[:, 0] = (other[:, 0] + 1) % VOCABULARY
    losses = [objective(body, objective.prepare({"tokens": t}, NOBODY)).total for t in (one, other)]
    assert losses[0] != losses[1]


def test_flash_kernels_are_refused_with_documents() -> None:
    """Catches documents that leak: flash kernels take no mask and look at positions in batches of one row only."""
    model = llama()
    body, objective = anatomy.of(model), NextToken()
    made = objective.prepare({"tokens": tokens(), "documents": DOCUMENTS}, NOBODY)
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(UnsupportedModel, match="respect_documents"):
        objective(body, made)


def test_refusals() -> None:
    """Catches an index error where a message belongs, and a bidirectional model that would see its answers."""
    objective = NextToken()
    with pytest.raises(ConfigError, match="at most 8 tokens"):
        body = anatomy.of(llama(max_position_embeddings=8))
        objective(body, objective.prepare({"tokens": tokens()}, NOBODY))
    with pytest.raises(UnsupportedModel, match="causal"):
        objective(anatomy.of(bert()), objective.prepare({"tokens": tokens()}, NOBODY))

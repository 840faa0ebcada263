"""MEFT: gradients without stored activations, the same as with them; memory that does not grow with depth."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from pomona import anatomy
from pomona.adapters.meft import MeftAdapter, MeftConfig, meft_
from pomona.adapters.reversible import Segment, Step
from pomona.ground.errors import UnsupportedModel
from pomona.tasks.classifier import head_of
from tests.adapters.conftest import IDS, classifier, disturbed_, logits
from tests.tiny import bert, gpt2, llama, t5

FAMILIES = {"llama": llama, "gpt2": gpt2, "bert": bert}
every_family = pytest.mark.parametrize("make", FAMILIES.values(), ids=FAMILIES)
both = pytest.mark.parametrize("variant", [1, 2])


def gradients(model: Any) -> dict[str, torch.Tensor]:
    """Of one pass of what trains."""
    model.zero_grad(set_to_none=True)
    torch.manual_seed(3)
    model(input_ids=IDS, labels=torch.tensor([0, 2])).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad and p.grad is not None}


def made(make: Any, **config: Any) -> tuple[Any, MeftAdapter]:
    """A model of four blocks in double precision, adapted and disturbed."""
    model = classifier(make, blocks=4, **config.pop("changes", {})).double()
    adapter = meft_(anatomy.of(model), MeftConfig(**config), head=head_of(model))
    model.double()
    disturbed_(model)
    return model, adapter


@every_family
@both
def test_gradients_are_those_of_autograd(make: Any, variant: int) -> None:
    """Catches a wrong inverse, streams that change places once too often, or a factor at the wrong side."""
    found = [gradients(made(make, variant=variant, blocks=count, anchors=100)[0]) for count in (4, 2, 0)]
    assert found[0] and found[0].keys() == found[2].keys()
    for name, expected in found[2].items():
        for computed in found[:2]:
            torch.testing.assert_close(computed[name], expected, rtol=1e-7, atol=1e-9, msg=name)


@both
def test_dropout_is_the_same_again(variant: int) -> None:
    """Catches a recomputation with other noise than the forward pass, which no loss curve would show."""
    changes = {"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.2}
    ours, plain = (
        gradients(made(bert, variant=variant, dropout=0.3, blocks=count, changes=changes)[0]) for count in (4, 0)
    )
    for name, expected in plain.items():
        torch.testing.assert_close(ours[name], expected, rtol=1e-7, atol=1e-9, msg=name)


def test_inverse_by_hand() -> None:
    """Catches streams added in the wrong order: F doubles, G adds one, lam 0.5, beta 0.25."""
    segment = Segment([], lam=0.5, beta=0.25)
    step = Step(lambda x: 2 * x, lambda x: x + 1)
    x1, x2 = torch.tensor([4.0]), torch.tensor([8.0])
    y2, y1 = segment.forward((x1, x2), step)
    assert (y1.item(), y2.item()) == (0.5 * 4 + 16, 0.25 * 8 + 19)
    assert segment.inverse((y2, y1), step) == (x1, x2)


@both
def test_inverse_of_blocks(variant: int) -> None:
    """Catches an error of the inversion that is more than rounding."""
    model, adapter = made(llama, variant=variant, anchors=100)
    gradients(model)
    assert 0 < adapter.reconstruction_error < 1e-8


class Bytes:
    """Bytes that autograd keeps for the backward pass, each storage once; parameters and buffers are not counted."""

    def __init__(self, model: Any) -> None:
        owned = (*model.parameters(), *model.buffers())
        self.known = {tensor.untyped_storage().data_ptr() for tensor in owned}
        self.total = 0

    @contextmanager
    def counted(self) -> Iterator[None]:
        def pack(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in self.known:
                self.known.add(storage.data_ptr())
                self.total += storage.nbytes()
                self.kept.append(tensor)  # else its place could be taken by another
            return tensor

        self.kept: list[torch.Tensor] = []
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            yield


def saved_bytes(blocks: int, config: MeftConfig | None) -> int:
    """What one pass of a decoder keeps; without a configuration, of full fine-tuning."""
    model = classifier(llama, blocks=blocks)
    if config is not None:
        meft_(anatomy.of(model), config, head=head_of(model))
    counter, ids = Bytes(model), torch.arange(192).reshape(4, 48) % 40 + 3
    with counter.counted():
        model(input_ids=ids, labels=torch.tensor([0, 2, 1, 0]))
    return counter.total


def test_memory() -> None:
    """Catches activations that are stored all the same: a third at most of twelve blocks, and no growth with depth."""
    full = saved_bytes(12, None)
    assert saved_bytes(12, MeftConfig()) < full / 3
    pure = [saved_bytes(blocks, MeftConfig(anchors=100)) for blocks in (4, 12)]
    assert pure[0] == pure[1] < full / 10
    assert saved_bytes(12, MeftConfig(blocks=0)) > full / 3


@every_family
def test_it_starts_near_the_model(make: Any) -> None:
    """Catches the streams averaged at the wrong place: with silent adapters and lam to 0, variant 1 is the model."""
    from pomona.adapters import meft

    model = classifier(make, blocks=4).eval()
    body = anatomy.of(model)
    expected = body.hidden(input_ids=IDS)
    adapter = meft_(body, MeftConfig(std=0.0))
    adapter.segment.lam = 1e-9
    near: list[torch.Tensor] = []
    last = body.blocks[-1].module
    original = adapter._run

    def run(hidden: torch.Tensor, calls: Any) -> torch.Tensor:
        streams = (hidden, hidden)
        for index, call in enumerate(calls):
            streams = adapter.segment.forward(streams, adapter._step(index, *call))
        near.append(streams[1])
        return streams[1]

    adapter._run = run  # type: ignore[method-assign]
    torch.testing.assert_close(anatomy.of(model).hidden(input_ids=IDS), expected, rtol=1e-4, atol=1e-5)
    assert near and original is not None and last is not None and meft.FACTORS[1] == (0.1, 1.0)


def test_training_and_evaluation_compute_alike() -> None:
    """Catches another function without gradients than with them."""
    model, _ = made(llama)
    model.eval()
    torch.testing.assert_close(model(input_ids=IDS).logits.detach(), logits(model), rtol=0, atol=0)


def test_refusals() -> None:
    """Catches models that would lose what their blocks hand to one another."""
    with pytest.raises(UnsupportedModel, match="two stacks"):
        meft_(anatomy.of(t5()))
    model = classifier(llama)
    meft_(anatomy.of(model))
    with pytest.raises(UnsupportedModel, match="attached already"):
        meft_(anatomy.of(model))

"""What every adapter keeps to."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from pomona import anatomy
from pomona.adapters import attach
from pomona.adapters.loading import SAVED
from pomona.engine import FitConfig, fit
from pomona.ground.config import MethodConfig
from pomona.ground.errors import DataError, UnsupportedModel
from pomona.optimizers.adamw import AdamwConfig
from pomona.tasks import Classify
from pomona.tasks.classifier import head_of, shape_of
from tests.adapters.conftest import IDS, classifier, disturbed_, logits
from tests.conformance import methods_of, slug_of
from tests.tiny import bert, gpt2, llama

METHODS = methods_of("adapter")
OWN = [method for method in METHODS if slug_of(method) not in ("full", "head")]
ADDED = [method for method in OWN if slug_of(method) not in ("lora", "meft")]
"""Those of which several add up on one model."""
NEEDS_PEFT = pytest.mark.skipif(find_spec("peft") is None, reason="until peft is installed (make test does)")


def marked(methods: list[Any]) -> list[Any]:
    return [pytest.param(method, marks=NEEDS_PEFT) if slug_of(method) == "lora" else method for method in methods]


every_method = pytest.mark.parametrize("method", marked(METHODS), ids=slug_of)
every_adapter = pytest.mark.parametrize("method", marked(OWN), ids=slug_of)
every_family = pytest.mark.parametrize("make", [llama, gpt2, bert], ids=["llama", "gpt2", "bert"])


def attached(method: type[MethodConfig], model: Any, seed: int = 0) -> Any:
    return method().attach_(anatomy.of(model), head=head_of(model), seed=seed)  # type: ignore[attr-defined]


def values(model: Any) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


@every_method
@every_family
def test_start_and_what_trains(method: type[MethodConfig], make: Any) -> None:
    """Catches an adapter that changes the model before it has learnt anything, and frozen weights with gradients."""
    model = classifier(make)
    before, own = logits(model), {name for name, _ in model.named_parameters()}
    head = {id(parameter) for parameter in head_of(model)}
    adapter = attached(method, model)
    output = model(input_ids=IDS, labels=torch.tensor([0, 2]))
    assert not adapter.exact_start or torch.equal(output.logits, before)
    output.loss.backward()
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert head <= {id(parameter) for parameter in trained.values()}
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (parameter.grad is not None), name
    guests = anatomy.guests_of(model)
    assert all(name in guests or adapter.trains_weights or id(parameter) in head for name, parameter in trained.items())
    assert len(own) <= len(dict(model.named_parameters()))


@every_adapter
@every_family
def test_the_anatomy_sees_the_model_through_it(method: type[MethodConfig], make: Any) -> None:
    """Catches an adapter that hides the parts of the model from the training loop, or is taken for one of them."""
    model = classifier(make)
    before = anatomy.of(model)
    shapes = [(weight.role, weight.shape) for weight in before.weights()]
    attached(method, model)
    body = anatomy.of(model)
    assert [(weight.role, weight.shape) for weight in body.weights()] == shapes
    assert not {id(w.parameter) for w in body.weights()} & {id(p) for p in anatomy.guests_of(model).values()}
    names = dict(model.named_parameters())
    assert all(names[name] is parameter for name, parameter in anatomy.guests_of(model).items())


@every_adapter
@every_family
def test_it_merges_exactly(method: type[MethodConfig], make: Any) -> None:
    """Catches a transposed or unscaled merge, wrong rows of fused maps, hooks or wrappers that stay."""
    model = classifier(make).double().eval()
    names = list(values(model))
    adapter = attached(method, model)
    model.double()
    disturbed_(model)
    learnt = logits(model)
    if not adapter.mergeable:
        with pytest.raises(UnsupportedModel, match="lora"):
            adapter.merge_()
        return
    adapter.merge_()
    assert list(values(model)) == names
    torch.testing.assert_close(logits(model), learnt, rtol=1e-9, atol=1e-9)


@every_adapter
@every_family
def test_detaching_restores_the_model(method: type[MethodConfig], make: Any) -> None:
    """Catches weights that were written before merging, and calls that still go another way."""
    model = classifier(make).eval()
    before, kept = logits(model), values(model)
    head = {name for name, parameter in model.named_parameters() if any(parameter is one for one in head_of(model))}
    adapter = attached(method, model)
    for parameter in anatomy.guests_of(model).values():
        parameter.data.normal_()
    assert not torch.allclose(logits(model), before, atol=1e-4)
    adapter.detach_()
    after = values(model)
    assert after.keys() == kept.keys() and all(
        torch.equal(after[name], kept[name]) for name in kept if name not in head
    )
    assert torch.equal(logits(model), before)


@pytest.mark.parametrize("method", SAVED.values(), ids=SAVED)
@every_family
def test_saved_adapters_come_back(method: type[MethodConfig], make: Any, tmp_path: Path) -> None:
    """Catches tensors that are not saved, and an adapter put on weights that it does not belong to."""
    model = classifier(make).eval()
    adapter = attached(method, model)
    for index, parameter in enumerate(anatomy.guests_of(model).values()):
        parameter.data.normal_(generator=torch.Generator().manual_seed(index))
    adapter.save(tmp_path)
    fresh = classifier(make).eval()
    attach(fresh, tmp_path)
    torch.testing.assert_close(logits(fresh), logits(model))
    if adapter.mergeable:
        other = classifier(make)
        anatomy.of(other).blocks[0].attention.query.parameter.data.add_(0.1)
        with pytest.raises(DataError, match="trained on other weights"):
            attach(other, tmp_path)


@every_adapter
@every_family
def test_a_plan_can_ask(method: type[MethodConfig], make: Any) -> None:
    """Catches an adapter that looks at values: a plan attaches it to a model that has none."""
    model = shape_of(make(), ("a", "b", "c"))
    attached(method, model)
    assert anatomy.guests_of(model)


@pytest.mark.parametrize("method", ADDED, ids=slug_of)
def test_two_stack(method: type[MethodConfig]) -> None:
    """Catches a second adapter that replaces the first, or trains it."""
    model = classifier(llama).double().eval()
    base, learnt = logits(model), []
    for seed in range(2):
        adapter = attached(method, model, seed)
        for parameter in adapter.deltas.parameters():
            parameter.data.normal_(generator=torch.Generator().manual_seed(seed))
        model.double()
        learnt.append((adapter, logits(model)))
    assert not torch.allclose(learnt[0][1], base) and not torch.allclose(learnt[0][1], learnt[1][1])
    assert not any(parameter.requires_grad for parameter in learnt[0][0].deltas.parameters())
    for adapter, _ in learnt:
        adapter.merge_()
    torch.testing.assert_close(logits(model), learnt[1][1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("method", marked([one for one in OWN if one not in ADDED]), ids=slug_of)
def test_what_cannot_stack_says_so(method: type[MethodConfig]) -> None:
    """Catches a second adapter of a kind that rules it out and fails deep inside, or spoils the first."""
    model = classifier(llama).eval()
    attached(method, model)
    first = logits(model)
    with pytest.raises(UnsupportedModel, match="dylora"):
        attached(method, model, 1)
    assert torch.equal(logits(model), first)


class Same:
    """The same batch at every step."""

    def batch(self, step: int, rank: int = 0, *, micro_batches: int = 1) -> list[dict[str, torch.Tensor]]:
        made = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS), "labels": torch.tensor([0, 2])}
        return [{name: part[index::micro_batches] for name, part in made.items()} for index in range(micro_batches)]


@every_method
@every_family
def test_it_learns_in_the_training_loop(method: type[MethodConfig], make: Any) -> None:
    """Catches an adapter that the loop's fast paths pass by, and frozen weights that weight decay moves."""
    model = classifier(make)
    adapter = attached(method, model)
    body = anatomy.of(model)
    frozen = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
    objective, stream = adapter.taught(Classify(), Same(), 0)
    optimizer = AdamwConfig(learning_rate=0.003 if adapter.trains_weights else 0.03, weight_decay=0.1).build(
        body, total_steps=12
    )
    training = fit(
        model,
        objective,
        stream,
        optimizer,
        lambda step: 1.0,
        steps=15,
        config=FitConfig(precision="fp32", compile="never", log_every=1, micro_batches=2),
    )
    assert training.records[-1]["loss"] < 0.5 * training.records[0]["loss"]
    after = dict(model.named_parameters())
    assert all(torch.equal(after[name], value) for name, value in frozen.items())

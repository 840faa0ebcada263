"""DyLoRA: what a step touches, ranks that can be chosen, and what peft makes of an exported one."""

from __future__ import annotations

import math
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from pomona import anatomy
from pomona.adapters.dylora import RANK, AtRank, Components, DyloraConfig, RankedStream, dylora_, rank_at, select_rank
from pomona.adapters.lora import LoraConfig, lora_
from pomona.adapters.svfit import svfit_
from pomona.ground.errors import ConfigError
from pomona.tasks import Classify
from pomona.tasks.classifier import head_of
from tests.adapters.conftest import IDS, classifier, disturbed_, logits
from tests.adapters.test_conformance import Same
from tests.tiny import gpt2, llama

with_peft = pytest.mark.skipif(find_spec("peft") is None, reason="until peft is installed (make test does)")


def test_by_hand() -> None:
    """Catches a scale of alpha / rank_max: at rank 1 of 2, alpha 4 multiplies by 4."""
    delta = Components(2, 2, DyloraConfig(rank_max=2, alpha=4.0), torch.Generator())
    for index, (down, up) in enumerate((([1.0, 0.0], [1.0, 2.0]), ([0.0, 1.0], [3.0, 5.0]))):
        delta.down[index].data[0] = torch.tensor(down)
        delta.up[index].data[:, 0] = torch.tensor(up)
    assert delta.dense().tolist() == [[2.0, 6.0], [4.0, 10.0]]
    delta.rank = 1
    assert delta.dense().tolist() == [[4.0, 0.0], [8.0, 0.0]]
    assert delta(torch.tensor([[1.0, 1.0]])).tolist() == [[4.0, 8.0]]


@pytest.mark.parametrize("update", ["full", "frozen"])
def test_a_step_touches_what_its_rule_says(update: Any) -> None:
    """Catches momentum, decay or gradients that leak into components which the step left out."""
    model = classifier(llama)
    config = DyloraConfig(rank_max=4, update=update)
    adapter = dylora_(anatomy.of(model), config, head=head_of(model))
    disturbed_(model)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=0.1, weight_decay=0.1)
    objective = AtRank(Classify(), adapter)
    for rank in (4, 2):
        before = [[(d.down[i].clone(), d.up[i].clone()) for i in range(4)] for d in adapter.deltas]
        states = [len(optimizer.state.get(d.down[i], {})) for d in adapter.deltas for i in range(4)]
        ages = [float(optimizer.state[d.down[i]]["step"]) if states[0] else 0.0 for d in adapter.deltas for i in (2, 3)]
        (batch,) = Same().batch(0)
        optimizer.zero_grad()
        objective(anatomy.of(model), {**batch, RANK: torch.full((2,), rank)}).total.backward()
        optimizer.step()
        touched = range(rank) if update == "full" else (rank - 1,)
        for delta, own in zip(adapter.deltas, before, strict=True):
            for index, (down, up) in enumerate(own):
                assert torch.equal(delta.up[index], up) == (index not in touched), (rank, index)
                assert torch.equal(delta.down[index], down) == (index not in touched), (rank, index)
        if ages and ages[0]:
            later = [float(optimizer.state[d.down[i]]["step"]) for d in adapter.deltas for i in (2, 3)]
            assert later == ages, "what is beyond the rank does not age"


def test_ranks_are_drawn_evenly_and_alike_everywhere() -> None:
    """Catches a rank for each process or micro-batch, and a range without its ends."""
    config = DyloraConfig(rank_min=2, rank_max=5)
    drawn = [rank_at(config, 3, step) for step in range(4000)]
    spread = math.sqrt(4000 * 0.25 * 0.75)
    assert {rank: abs(drawn.count(rank) - 1000) < 4 * spread for rank in range(2, 6)} == dict.fromkeys(
        range(2, 6), True
    )
    assert len({tuple(rank_at(config, seed, step) for step in range(20)) for seed in range(5)}) == 5
    stream = RankedStream(Same(), config, 3)
    batches = [batch for rank in range(2) for batch in stream.batch(17, rank, micro_batches=2)]
    assert {value for batch in batches for value in batch[RANK].tolist()} == {rank_at(config, 3, 17)}
    halved = [rank_at(DyloraConfig(rank_max=3, draw="geometric"), 0, step) for step in range(4000)]
    assert halved.count(1) > 1.7 * halved.count(2) > 2.5 * halved.count(3)


@pytest.mark.parametrize("make", [llama, gpt2], ids=["llama", "gpt2"])
def test_every_rank_equals_its_merge(make: Any) -> None:
    """Catches ranks that compute with one part and merge with another."""
    for rank in (1, 3):
        model = classifier(make).double().eval()
        adapter = dylora_(anatomy.of(model), DyloraConfig(rank_max=3, rank=rank, targets=("query", "value", "down")))
        model.double()
        disturbed_(model)
        adapter.set_rank(rank)
        learnt = logits(model)
        adapter.merge_()
        torch.testing.assert_close(logits(model), learnt, rtol=1e-9, atol=1e-9)


def test_the_smallest_good_rank_is_chosen() -> None:
    """Catches the best rank in place of the smallest within tolerance."""
    adapter = dylora_(anatomy.of(classifier(llama)), DyloraConfig(rank_max=4))
    scores = {1: 0.5, 2: 0.79, 3: 0.8, 4: 0.78}
    assert select_rank(adapter, lambda: scores[adapter.deltas[0].rank], 0.02) == 2
    assert select_rank(adapter, lambda: scores[adapter.deltas[0].rank]) == 3 == adapter.deltas[0].rank


def test_refusals() -> None:
    """Catches ranks beyond what is trained."""
    with pytest.raises(ValidationError, match="at most rank_max"):
        DyloraConfig(rank_max=4, rank_min=5)
    with pytest.raises(ConfigError, match="1 to 2"):
        dylora_(anatomy.of(llama()), DyloraConfig(rank_max=2)).set_rank(3)


@with_peft
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft 0.21 with transformers 5
@pytest.mark.parametrize("make", [llama, gpt2], ids=["llama", "gpt2"])
def test_peft_loads_what_is_exported(make: Any, tmp_path: Path) -> None:
    """Catches a file that another runtime reads as another function: scale, orientation, rows of fused maps."""
    import peft

    model = classifier(make).eval()
    adapter = dylora_(anatomy.of(model), DyloraConfig(rank_max=4, targets=("query", "value", "up")))
    disturbed_(model)
    adapter.export(tmp_path, rank=3)
    adapter.set_rank(3)
    theirs = peft.PeftModel.from_pretrained(classifier(make).eval(), tmp_path)
    torch.testing.assert_close(logits(theirs), logits(model), rtol=1e-4, atol=1e-5)
    values = classifier(make).eval()
    other = svfit_(anatomy.of(values))
    disturbed_(values)
    other.export(tmp_path / "values")
    theirs = peft.PeftModel.from_pretrained(classifier(make).eval(), tmp_path / "values")
    torch.testing.assert_close(logits(theirs), logits(values), rtol=1e-4, atol=1e-5)


@with_peft
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft 0.21 with transformers 5
def test_one_rank_is_lora() -> None:
    """Catches another start, scale or dropout than LoRA's: with rank_min = rank_max every step is the same."""
    ends = []
    for dynamic in (True, False):
        model = classifier(llama).double().eval()
        body = anatomy.of(model)
        if dynamic:
            adapter = dylora_(body, DyloraConfig(rank_min=3, rank_max=3, alpha=6.0))
            downs = [torch.cat(list(delta.down)).detach() for delta in adapter.deltas]
        else:
            lora_(body, LoraConfig(rank=3, alpha=6.0))
            own = [p for name, p in anatomy.guests_of(model).items() if "lora_A" in name]
            for parameter, down in zip(own, downs, strict=True):
                parameter.data.copy_(down)
        model.double()
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)
        for _ in range(4):
            optimizer.zero_grad()
            model(input_ids=IDS, labels=torch.tensor([0, 2])).loss.backward()
            optimizer.step()
        ends.append(logits(model))
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-9, atol=1e-9)

"""What every merging method keeps to, on every shape of the anatomy's table. New ones of both join by themselves."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pomona.merging import MergeConfig, merge
from tests.conformance import methods_of, slug_of
from tests.merging.models import FAMILIES, base_of, equal, expert_of, frozen, outputs_of, state_of, view_of

METHODS: list[Any] = methods_of("merging")
every_method = pytest.mark.parametrize("method", METHODS, ids=slug_of)
every_family = pytest.mark.parametrize("family", FAMILIES)


def experts_for(method: type[MergeConfig], base: Any) -> list[Any]:
    """As many experts as the method takes, three at most."""
    return [expert_of(base, seed) for seed in range(method.most_experts or 3)]


@every_family
@every_method
def test_merges_every_shape(method: type[MergeConfig], family: str) -> None:
    """Catches a shape whose storage (fused, tied, experts) the merge does not survive: the result computes, differs
    from every parent, shares nothing with them, keeps its ties and what no expert has changed; the parents stay."""
    base = base_of(family)
    experts = experts_for(method, base)
    before = [state_of(model) for model in (base, *experts)]
    merged = merge(base, experts, method())
    assert all(equal(state_of(model), state) for model, state in zip((base, *experts), before, strict=True))
    assert type(merged) is type(base) and view_of(merged).ties == view_of(base).ties
    pointers = {value.data_ptr() for model in (base, *experts) for value in model.state_dict().values()}
    assert not pointers & {value.data_ptr() for value in merged.state_dict().values()}
    state = state_of(merged)
    assert torch.equal(state[frozen(base)], before[0][frozen(base)])
    assert not any(equal(state, other) for other in before)
    outputs = outputs_of(merged)
    assert outputs.isfinite().all() and not torch.equal(outputs, outputs_of(base))


@every_method
def test_experts_that_learned_nothing_leave_the_base(method: type[MergeConfig]) -> None:
    """Catches rounding, rescaling or a mean with zeros that moves weights which nobody has changed: exact."""
    base = base_of("llama")
    copies = [base] * (method.most_experts or 3)
    assert equal(state_of(merge(base, copies, method())), state_of(base))


@pytest.mark.parametrize("method", [method for method in METHODS if method.most_experts is None], ids=slug_of)
def test_the_order_of_experts_does_not_matter(method: type[MergeConfig]) -> None:
    """Catches sums, masks or thresholds that follow the order in which experts are given: the same bits, also with
    equal experts among them and with weights that move with their experts."""
    base = state_of(base_of("gpt2"))
    one, two, three = (state_of(expert_of(base_of("gpt2"), seed)) for seed in range(3))
    experts, orders = [one, two, three, two], [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]]
    settings: list[dict[str, Any]] = [{}]
    if "weights" in method.model_fields:
        settings.append({"weights": (0.7, 0.3, 1.1, 0.9)})
    for given in settings:
        weights = given.get("weights", ())
        merged = []
        for order in orders:
            moved = {"weights": tuple(weights[place] for place in order)} if weights else {}
            merged.append(merge(base, [experts[place] for place in order], method(**moved)))
        assert equal(merged[0], merged[1]) and equal(merged[0], merged[2])


@every_method
def test_half_precision_is_only_how_weights_are_stored(method: type[MergeConfig]) -> None:
    """Catches arithmetic in bfloat16: parents in bfloat16 give, within one rounding, the merge of the same numbers in
    float32. In bfloat16 arithmetic about every third entry is off."""
    base = base_of("llama").bfloat16()
    experts = [expert.bfloat16() for expert in experts_for(method, base)]
    stored = state_of(merge(base, experts, method()))
    wide = state_of(merge(base.float(), [expert.float() for expert in experts], method()))
    total = wrong = 0
    for name, value in wide.items():
        assert stored[name].dtype == torch.bfloat16
        total += value.numel()
        wrong += int((stored[name] != value.bfloat16()).sum())
        assert torch.allclose(stored[name].float(), value, rtol=2**-7, atol=2**-13)
    assert wrong <= total / 1000


@every_method
def test_dtype_of_the_result(method: type[MergeConfig]) -> None:
    """Catches an option that is ignored, or that rounds twice."""
    base = base_of("llama")
    experts = experts_for(method, base)
    stored, merged = merge(base, experts, method(), dtype="bfloat16"), merge(base, experts, method())
    assert {value.dtype for value in stored.state_dict().values()} == {torch.bfloat16}
    for name, value in state_of(merged).items():
        assert torch.equal(stored.state_dict()[name], value.bfloat16())

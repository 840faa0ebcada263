"""SVFit: by hand, against a slow reference, at its limits."""

from __future__ import annotations

import pytest
import torch

from pomona import anatomy
from pomona.adapters.svfit import SingularValues, SvfitConfig, leading, svfit_, tied
from pomona.ground.errors import UnsupportedModel
from pomona.tasks.classifier import head_of
from tests.adapters.conftest import IDS, classifier
from tests.tiny import gpt2, llama


def drawn(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_by_hand() -> None:
    """Catches values that are scaled in place of added to: diag(3, 1) with d = (1, 2) is diag(4, 3)."""
    weight = torch.diag(torch.tensor([3.0, 1.0], dtype=torch.float64))
    delta = SingularValues(weight, None, None, False)
    delta.change.data[:] = torch.tensor([1.0, 2.0])
    torch.testing.assert_close(weight + delta.dense(), torch.diag(torch.tensor([4.0, 3.0], dtype=torch.float64)))


@pytest.mark.parametrize(("rows", "columns", "rank"), [(6, 6, None), (4, 9, None), (9, 4, 2)])
def test_against_the_whole_matrix(rows: int, columns: int, rank: int | None) -> None:
    """Catches a wrong split or gradient: W' = W_e + U diag(sigma) V^T, and d's gradient is diag(U^T G V)."""
    weight = drawn(rows, columns)
    delta = SingularValues(weight, rank, None, False)
    delta.change.data.copy_(drawn(1, len(delta.change), 1)[0])
    left, singular, right = torch.linalg.svd(weight, full_matrices=False)
    count = rank or len(singular)
    rest = weight - (left[:, :count] * singular[:count]) @ right[:count]
    whole = rest + (left[:, :count] * (singular[:count] + delta.change.detach())) @ right[:count]
    torch.testing.assert_close(weight + delta.dense().detach(), whole, rtol=0, atol=1e-12)
    inputs, grad = drawn(7, columns, 2), drawn(7, rows, 3)
    torch.testing.assert_close(delta(inputs).detach(), inputs @ delta.dense().detach().T, rtol=0, atol=1e-12)
    delta(inputs).backward(grad)
    expected = ((delta.left.T @ (grad.T @ inputs)) * delta.right).sum(1)
    torch.testing.assert_close(delta.change.grad, expected, rtol=0, atol=1e-11)
    eye = torch.eye(count, dtype=torch.float64)
    torch.testing.assert_close(delta.left.T @ delta.left, eye, rtol=0, atol=1e-12)
    torch.testing.assert_close(delta.right @ delta.right.T, eye, rtol=0, atol=1e-12)


def test_limits() -> None:
    """Catches a residual that is left when all values are taken away, and a rank above what was changed."""
    weight = drawn(8, 5)
    delta = SingularValues(weight, None, None, False)
    delta.change.data.copy_(-delta.singular)
    assert (weight + delta.dense()).abs().max() < 1e-12
    delta.change.data.zero_()[[1, 3]] = 0.5
    assert int(torch.linalg.matrix_rank(delta.dense())) == 2
    nonneg = SingularValues(weight, None, None, True)
    nonneg.change.data.fill_(-100.0)
    assert (weight + nonneg.dense()).abs().max() < 1e-12


def test_ranks() -> None:
    """Catches the energy of values in place of squares: of 3, 1, 0.1 two hold 99 % of the squares."""
    values = torch.tensor([3.0, 1.0, 0.1])
    assert [leading(values, *how) for how in ((None, None), (2, None), (None, 0.99), (1, 0.99), (None, 0.85))] == [
        3, 2, 2, 1, 1,
    ]  # fmt: skip
    assert tied(torch.tensor([2.0, 1.0, 1.0]), 2) and not tied(torch.tensor([2.0, 1.0, 0.5]), 2)
    assert tied(torch.tensor([2.0, 1.0, 1.0]), 3) and not tied(torch.tensor([2.0, 1.0, 1.0]), 1)


def test_equal_values_keep_their_basis() -> None:
    """Catches an adapter of an orthogonal matrix that another library would load into another basis."""
    orthogonal = torch.linalg.qr(drawn(6, 6))[0]
    assert {"left", "right"} <= SingularValues(orthogonal, None, None, False).state_dict().keys()
    assert set(SingularValues(drawn(6, 6), None, None, False).state_dict()) == {"change"}


@pytest.mark.parametrize("make", [llama, gpt2], ids=["llama", "gpt2"])
def test_scalars_are_as_many_as_ranks(make: type) -> None:
    """Catches trainable bases, and maps that are counted twice."""
    model = classifier(make)
    body = anatomy.of(model)
    adapter = svfit_(body, head=head_of(model))
    maps = [weight for block in body.blocks for weight in (block.attention.query, block.attention.value)]
    trained = sum(p.numel() for p in anatomy.guests_of(model).values() if p.requires_grad)
    assert trained == sum(min(weight.shape) for weight in maps) == sum(line["rank"] for line in adapter.report())
    model(input_ids=IDS).logits.sum().backward()
    assert all(delta.left.grad is None for delta in adapter.deltas)
    assert adapter.cost[0] > 0


def test_the_report_counts_changed_signs() -> None:
    """Catches a relative change without its sign: a value pushed below zero has turned its direction around."""
    model = classifier(llama)
    adapter = svfit_(anatomy.of(model))
    delta = adapter.deltas[0]
    delta.change.data[0] = -2 * delta.singular[0]
    line = adapter.report()[0]
    assert line["changed_sign"] == 1 and line["largest_change"] == pytest.approx(2.0) and line["energy"] == 1.0


def test_refusals() -> None:
    """Catches a target that no block has, and doing nothing."""
    with pytest.raises(UnsupportedModel, match="choose other targets"):
        svfit_(anatomy.of(gpt2()), SvfitConfig(targets=("gate",)))

"""The invariants of Conda's catalog entry, one test each, and a slow reference written from its equations."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pomona import anatomy
from pomona.optimizers import Conda, CondaConfig
from pomona.optimizers import conda as module
from pomona.optimizers.conda import Side, default_refresh_steps, sides, singular_basis, subspace_step
from tests.tiny import gpt2, llama

SHAPES = [(8, 8), (20, 8), (8, 20)]
BETAS = (0.9, 0.99)


def conda(*parameters: nn.Parameter, **changes: Any) -> Conda:
    """Conda over single matrices, in the precision of their dtype."""
    group = {
        "name": "matrices",
        "params": list(parameters),
        "lr": 0.01,
        "betas": BETAS,
        "eps": 1e-8,
        "weight_decay": 0.0,
        "scale": 0.25,
        "refresh_steps": 3,
        "side": "std",
        "backend": "exact",
        "bfloat16": False,
        **changes,
    }
    return Conda([group], [])


def draw(shape: tuple[int, ...], seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def steps(optimizer: Conda, parameter: nn.Parameter, gradients: list[Tensor]) -> list[Tensor]:
    """The updates W_before - W_after of each step."""
    updates = []
    for grad in gradients:
        before = parameter.detach().clone()
        parameter.grad = grad.clone()
        optimizer.step()
        updates.append(before - parameter.detach())
    return updates


def reference(shape: tuple[int, int], gradients: list[Tensor], *, refresh: int, decay: float, side: Side) -> Tensor:
    """The entry's seven lines for one matrix, with torch's SVD; returns the weights from a start of ones."""
    w = torch.ones(shape, dtype=torch.float64)
    m, v = torch.zeros_like(w), torch.zeros_like(w)
    left, right = torch.eye(shape[0], dtype=w.dtype), torch.eye(shape[1], dtype=w.dtype)
    on_left, on_right = sides(*shape, side)
    b1, b2 = BETAS
    for t, grad in enumerate(gradients):
        m = b1 * m + (1 - b1) * grad
        if t % refresh == 0:
            u, _, vh = torch.linalg.svd(m, full_matrices=True)
            left, right = (u if on_left else left), (vh.T if on_right else right)
        rotated_grad, rotated_m = left.T @ grad @ right, left.T @ m @ right
        v = b2 * v + (1 - b2) * rotated_grad**2
        n = rotated_m / (v.sqrt() + 1e-8)
        c = math.sqrt(1 - b2 ** (t + 1)) / (1 - b1 ** (t + 1))
        w = w - 0.01 * c * 0.25 * (left @ n @ right.T)
        w = w - 0.01 * decay * w
    return w


@pytest.mark.parametrize(
    ("shape", "side"),
    [((8, 8), "std"), ((20, 8), "std"), ((8, 20), "std"), ((8, 20), "left"), ((20, 8), "right"), ((8, 8), "full")],
)
def test_equals_the_slow_reference(shape: tuple[int, int], side: Side) -> None:
    """Catches a rotated or reset moment, the SVD of the gradient, decay before the step or with `scale`, and a basis
    of the wrong side. (A basis larger than the rank of M is not unique, so those sides are left out.)"""
    gradients = [draw(shape, seed) for seed in range(7)]
    parameter = nn.Parameter(torch.ones(shape, dtype=torch.float64))
    steps(conda(parameter, weight_decay=0.3, side=side), parameter, gradients)
    wanted = reference(shape, gradients, refresh=3, decay=0.3, side=side)
    torch.testing.assert_close(parameter.detach(), wanted, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("shape", SHAPES)
def test_identity_basis_is_adam(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """With Q = 1 and scale = 1 the trajectory is Adam's, epsilon being added before bias correction."""

    def identity(moments: Tensor, *, left: bool) -> Tensor:
        size = moments.shape[1] if left else moments.shape[2]
        return torch.eye(size, dtype=moments.dtype).repeat(len(moments), 1, 1)

    monkeypatch.setattr(module, "singular_basis", identity)
    gradients = [draw(shape, seed) for seed in range(6)]
    parameter = nn.Parameter(torch.zeros(shape, dtype=torch.float64))
    steps(conda(parameter, scale=1.0), parameter, gradients)
    m, v, w = (torch.zeros(shape, dtype=torch.float64) for _ in range(3))
    for t, grad in enumerate(gradients, start=1):
        m, v = 0.9 * m + 0.1 * grad, 0.99 * v + 0.01 * grad**2
        w = w - 0.01 * math.sqrt(1 - 0.99**t) / (1 - 0.9**t) * m / (v.sqrt() + 1e-8)
    torch.testing.assert_close(parameter.detach(), w, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("side", ["std", "reverse", "left", "right"])
def test_first_step(shape: tuple[int, int], side: Side) -> None:
    """The first step from zero state is lr * scale * Q sign(Q^T G) on the left, and mirrored on the right."""
    grad = draw(shape, 0)
    parameter = nn.Parameter(torch.zeros(shape, dtype=torch.float64))
    optimizer = conda(parameter, side=side)
    (update,) = steps(optimizer, parameter, [grad])
    on_left, _ = sides(*shape, side)
    q = optimizer.state[parameter]["basis_left" if on_left else "basis_right"]
    rotated = q.T @ grad if on_left else grad @ q
    counted = rotated.abs() > 1e-2  # far above epsilon; in the null space of G the sign is that of rounding
    found = q.T @ update if on_left else update @ q
    torch.testing.assert_close(found[counted], 0.01 * 0.25 * rotated.sign()[counted], rtol=1e-4, atol=1e-9)


def test_equivariance() -> None:
    """Turning every gradient by an orthogonal O (R < C) turns every update by O: signs of singular vectors cancel."""
    turn = torch.linalg.qr(draw((8, 8), 99))[0]
    gradients = [draw((8, 20), seed) for seed in range(8)]
    plain, turned = (nn.Parameter(torch.zeros(8, 20, dtype=torch.float64)) for _ in range(2))
    ours = steps(conda(plain), plain, gradients)
    theirs = steps(conda(turned), turned, [turn @ grad for grad in gradients])
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(turn @ a, b, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("backend", ["exact", "subspace"])
@pytest.mark.parametrize("count", [1, 3, 4, 9])
def test_basis(backend: Any, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Q^T Q = 1 to 1e-5 at every step, Q unchanged between refreshes, exactly ceil(steps / T) decompositions."""
    made: list[int] = []
    for name in ("singular_basis", "subspace_step"):
        original = getattr(module, name)
        monkeypatch.setattr(module, name, lambda m, *a, _f=original, **k: (made.append(len(m)), _f(m, *a, **k))[1])
    parameter = nn.Parameter(torch.zeros(20, 8))
    optimizer = conda(parameter, backend=backend)
    before = torch.empty(0)
    for step in range(count):
        steps(optimizer, parameter, [draw((20, 8), step, torch.float32)])
        q = optimizer.state[parameter]["basis_right"]
        assert (q.T @ q - torch.eye(8)).abs().max() < 1e-5
        assert torch.equal(q, before) == (step % 3 != 0)
        before = q.clone()
    assert sum(made) == math.ceil(count / 3)


def test_rest_is_exactly_adamw() -> None:
    """A 1-D parameter, an embedding and the head receive exactly the AdamW update; `scale` is for matrices alone."""
    ours, theirs = (anatomy.of(llama(tie_word_embeddings=False)) for _ in range(2))
    optimizer = CondaConfig(weight_decay=0.1).build(ours, total_steps=50)
    matrix = {id(p) for _, p in theirs.matrices()}
    rest = [p for p in theirs.model.parameters() if id(p) not in matrix]
    groups = [{"params": [p], "weight_decay": 0.1 if p.ndim > 1 else 0.0} for p in rest]
    reference_optimizer = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.99), fused=True)
    for step in range(4):
        for model in (ours.model, theirs.model):
            for seed, parameter in enumerate(model.parameters()):
                parameter.grad = draw(tuple(parameter.shape), 100 * step + seed, torch.float32)
        optimizer.step()
        reference_optimizer.step()
    names = [name for name, p in theirs.model.named_parameters() if id(p) not in matrix]
    assert {"model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"} <= set(names)
    found, wanted = dict(ours.model.named_parameters()), dict(theirs.model.named_parameters())
    assert all(torch.equal(found[name], wanted[name]) for name in names)


def test_memory() -> None:
    """State is two tensors of W's shape plus one square of the smaller side."""
    body = anatomy.of(gpt2())
    optimizer = CondaConfig().build(body, total_steps=50)
    for _, parameter in body.matrices():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    for _, parameter in body.matrices():
        tensors = [value for value in optimizer.state[parameter].values() if isinstance(value, Tensor)]
        assert sum(t.numel() for t in tensors) == 2 * parameter.numel() + min(parameter.shape) ** 2


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("spread", [1e1, 1e4, 1e6])
def test_basis_is_as_good_as_an_svd(shape: tuple[int, int], spread: float) -> None:
    """The Gram matrix's eigenvectors in float64 lose nothing against an SVD in float32: measured on the exact
    singular vectors of an ill-conditioned matrix, column by column. In float32 they would."""
    short = min(shape)
    left, right = (torch.linalg.qr(draw((size, short), size))[0] for size in shape)
    matrix = ((left * torch.logspace(0, -math.log10(spread), short, dtype=torch.float64)) @ right.T).float()
    on_left, _ = sides(*shape, "std")
    exact_u, _, exact_vh = torch.linalg.svd(matrix.double(), full_matrices=False)
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    exact, plain = (exact_u, u) if on_left else (exact_vh.T, vh.T)

    def error(basis: Tensor) -> float:
        overlap = (exact.T @ basis.double()).diagonal().abs()
        return float((1 - overlap).clamp_min(0).sqrt().max())

    ours = singular_basis(matrix.unsqueeze(0), left=on_left)[0]
    assert error(ours) <= error(plain) + 2e-4  # sqrt of float32's rounding of a unit vector
    gram = matrix @ matrix.T if on_left else matrix.T @ matrix
    if spread == 1e6:
        assert error(torch.linalg.eigh(gram).eigenvectors.flip(-1)) > 10 * error(ours)


def test_subspace_step_follows_the_moments() -> None:
    """Catches iteration without effect: from the basis of a nearby matrix, one step is nearer to the exact one in the
    leading directions; an unchanged matrix keeps its basis; a zero matrix too."""
    left, right = torch.linalg.qr(draw((8, 8), 1))[0], torch.linalg.qr(draw((20, 8), 2))[0]
    matrix = (left * (0.5 ** torch.arange(8, dtype=torch.float64))) @ right.T
    moved = matrix + 0.05 * draw((8, 20), 3)
    old, exact = singular_basis(matrix[None], left=True), singular_basis(moved[None], left=True)
    new = subspace_step(moved[None], old, left=True)

    def agreement(basis: Tensor) -> Tensor:
        return (exact.mT @ basis)[0, :3, :3].diagonal().abs().min()

    assert agreement(new) > agreement(old)
    same = subspace_step(matrix[None], old, left=True)
    torch.testing.assert_close((old.mT @ same)[0].abs(), torch.eye(8, dtype=torch.float64), rtol=0, atol=1e-2)
    assert torch.equal(subspace_step(torch.zeros(1, 8, 20, dtype=torch.float64), old, left=True), old)


def test_zero_gradient_of_a_frozen_branch() -> None:
    """Catches NaN from the basis of a zero matrix: nothing moves, and learning starts when a gradient comes."""
    parameter = nn.Parameter(torch.ones(8, 20))
    updates = steps(conda(parameter), parameter, [torch.zeros(8, 20)] * 4)
    assert not any(update.any() for update in updates)
    (update,) = steps(conda(parameter), parameter, [draw((8, 20), 0, torch.float32)])
    assert update.isfinite().all() and update.any()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_step_with_non_finite_gradients_is_skipped(bad: float) -> None:
    """Catches a poisoned moment: weights and state are as before, of the other parameters too."""
    body = anatomy.of(llama())
    optimizer = CondaConfig().build(body, total_steps=50)
    for step in range(2):
        for seed, parameter in enumerate(body.model.parameters()):
            parameter.grad = draw(tuple(parameter.shape), 100 * step + seed, torch.float32)
        if step == 0:
            optimizer.step()
    before = [p.detach().clone() for p in body.model.parameters()], str(optimizer.state_dict()["state"])
    assert body.model.model.norm.weight.grad is not None
    body.model.model.norm.weight.grad[0] = bad
    optimizer.step()
    assert all(torch.equal(p, b) for p, b in zip(body.model.parameters(), before[0], strict=True))
    assert str(optimizer.state_dict()["state"]) == before[1]


def test_bfloat16_products_stay_near() -> None:
    """Catches precision lost beyond bfloat16's: two roundings of 2^-9 in the update, not a wrong formula."""
    gradients = [draw((8, 20), seed, torch.float32) for seed in range(4)]
    ends = []
    for fast in (False, True):
        parameter = nn.Parameter(torch.zeros(8, 20))
        steps(conda(parameter, bfloat16=fast), parameter, gradients)
        ends.append(parameter.detach())
    assert 0 < (ends[0] - ends[1]).norm() / ends[0].norm() < 0.02


def test_flops_are_those_of_the_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a formula in the ledger that is not what runs: torch's counter agrees on the products of a step
    between refreshes, and a refresh costs more."""
    for shape in SHAPES:
        for side in ("std", "reverse", "full"):
            parameter = nn.Parameter(torch.zeros(shape))
            optimizer = conda(parameter, side=side)
            gradients = [draw(shape, seed, torch.float32) for seed in range(2)]
            steps(optimizer, parameter, gradients[:1])
            first = optimizer.auxiliary_flops()
            with FlopCounterMode(display=False) as counter:
                steps(optimizer, parameter, gradients[1:])
            assert optimizer.auxiliary_flops() == counter.get_total_flops() < first


def test_sides_by_hand() -> None:
    """Catches the larger side, and a square matrix taken from the left: R >= C is right."""
    tall, wide, square = (20, 8), (8, 20), (8, 8)
    assert [sides(*shape, "std") for shape in (tall, wide, square)] == [(False, True), (True, False), (False, True)]
    assert [sides(*shape, "reverse") for shape in (tall, wide)] == [(True, False), (False, True)]
    assert sides(*tall, "full") == (True, True) and sides(*tall, "left") == (True, False)


def test_default_refresh_interval() -> None:
    """Catches T = 2000 in a short run, where the basis would stay that of the first, noisy gradient."""
    assert [default_refresh_steps(n) for n in (10, 300, 20_000, 10**6)] == [10, 15, 1000, 2000]
    body = anatomy.of(llama())
    assert CondaConfig().build(body, total_steps=300).param_groups[0]["refresh_steps"] == 15
    assert CondaConfig(refresh_steps=7).build(body, total_steps=300).param_groups[0]["refresh_steps"] == 7

"""The invariants of the infinite schedule, one test each."""

from __future__ import annotations

import itertools
import json
import math

import pytest
import torch

from pomona.ground.errors import ConfigError
from pomona.schedules import InfiniteLrConfig, InfiniteSchedule, WarmupCosineConfig, WarmupStableDecayConfig
from pomona.schedules.infinite_lr import Style

STYLES: tuple[Style, ...] = ("cosine", "linear", "inverse-sqrt")
N_W, N_C, N_D, N_E = 50, 150, 800, 1000


def schedule(style: Style = "cosine") -> InfiniteSchedule:
    return InfiniteLrConfig(constant_ratio=0.4, min_ratio=0.05, style=style).build(1000)


@pytest.mark.parametrize("style", STYLES)
def test_continuity_and_values_at_the_ends(style: Style) -> None:
    """Catches a jump between phases: eta(0) = 0, eta(N_w) = max, eta(N_c) = const, eta(N_e) = min."""
    eta = schedule(style)
    assert eta(0) == 0.0
    assert eta(N_W) == 1.0
    assert eta(N_C) == pytest.approx(0.4) and eta(N_D) == pytest.approx(0.4)
    assert eta(N_E) == pytest.approx(0.05) and eta(N_E + 7) == pytest.approx(0.05)
    largest_move = max(abs(eta(n + 1) - eta(n)) for n in range(N_E))
    assert largest_move < 0.06  # steepest is the inverse square root's start


@pytest.mark.parametrize("style", STYLES)
def test_monotone_by_phase(style: Style) -> None:
    """Catches a phase in the wrong direction, and a rate above the peak."""
    eta = [schedule(style)(n) for n in range(N_E + 1)]
    moves = [after - before for before, after in itertools.pairwise(eta)]
    assert all(move > 0 for move in moves[:N_W])
    assert all(move < 1e-12 for move in moves[N_W:N_C])
    assert all(move == 0 for move in moves[N_C:N_D])
    assert all(move < 0 for move in moves[N_D:N_E])
    assert max(eta) == 1.0


@pytest.mark.parametrize(
    ("style", "middle"),
    [("cosine", 0.7), ("linear", 0.7), ("inverse-sqrt", 1 - 0.6 * (1 / math.sqrt(6) - 1) / (1 / math.sqrt(11) - 1))],
)
def test_cooldown_by_hand(style: Style, middle: float) -> None:
    """Catches a wrong cool-down: the values in its middle, from the formulas."""
    assert schedule(style)(100) == pytest.approx(middle)


def test_annealing_is_exponential() -> None:
    """Catches a linear annealing: halfway it is at the geometric mean of its ends."""
    assert schedule()(900) == pytest.approx(math.sqrt(0.4 * 0.05))


def test_reduces_to_warmup_stable_decay() -> None:
    """eta_const = eta_max and no cool-down is warm-up-stable-decay; only the warm-up's first step differs by one."""
    infinite = InfiniteLrConfig(warmup=20, cooldown=0, anneal=30, constant_ratio=1.0, min_ratio=0.1).build(100)
    stable = WarmupStableDecayConfig(warmup=20, decay=30, shape="exponential", min_ratio=0.1).build(100)
    assert [infinite(n) for n in range(20, 101)] == [stable(n) for n in range(20, 101)]
    assert [infinite(n + 1) for n in range(20)] == [stable(n) for n in range(20)]


def test_reduces_to_one_cosine() -> None:
    """eta_const = eta_min with N_c = N_e is one cosine."""
    infinite = InfiniteLrConfig(warmup=20, cooldown=80, anneal=0, constant_ratio=0.1, min_ratio=0.1).build(100)
    cosine = WarmupCosineConfig(warmup=20, min_ratio=0.1).build(100)
    assert [infinite(n) for n in range(20, 101)] == pytest.approx([cosine(n) for n in range(20, 101)])


@pytest.mark.parametrize("step", [0, 30, 100, 500, 850])
def test_resume_at_any_step(step: int) -> None:
    """Catches a state that loses a phase or the counter: through JSON, later values are the same."""
    eta = schedule().continued(3)
    state = json.loads(json.dumps(eta.state_dict(step)))
    again = InfiniteSchedule.from_state_dict(state)
    assert state["counter"] == step + 3 and state["phase"] == eta.phase(step)
    assert [again(n) for n in range(step, 1000)] == [eta(n) for n in range(step, 1000)]


def test_branch_leaves_the_main_line() -> None:
    """Catches `anneal` editing the schedule that the next dataset continues on."""
    main = InfiniteLrConfig(warmup=10, cooldown=20, anneal=0).build(1)
    before = [main(n) for n in range(300)]
    branch = main.anneal(50, at=100)
    assert [main(n) for n in range(300)] == before
    assert [branch(n) for n in range(101)] == before[:101]
    assert branch(150) == pytest.approx(0.05) and branch.phase(120) == "annealing"


def test_branch_from_the_cooldown_starts_where_it_left() -> None:
    """Catches a jump to the constant rate when a branch leaves before it."""
    main = InfiniteLrConfig(warmup=10, cooldown=100, anneal=0).build(200)
    branch = main.anneal(20, at=40)
    assert branch(40) == main(40) > 0.4
    assert main(40) > branch(41) > 0.8 * main(40)
    assert branch(60) == pytest.approx(0.05)


def test_counter_goes_on_over_datasets() -> None:
    """Catches a second warm-up: the next run's steps follow the first run's."""
    main = InfiniteLrConfig(warmup=10, cooldown=20, anneal=0).build(100)
    second = main.continued(100)
    assert [second(n) for n in range(50)] == [main(100 + n) for n in range(50)] == [0.4] * 50
    assert second.continued(50).state_dict(5)["counter"] == 155
    third = second.continued(50).anneal(10, at=5)
    assert third(15) == pytest.approx(0.05) and third(5) == 0.4
    assert main.continued(15)(0) == main(15)


def test_a_later_dataset_has_no_warmup() -> None:
    """Catches re-warming: constant at once, annealed at the end, and the next dataset goes on before that."""
    config = InfiniteLrConfig()
    first = config.build(100)
    assert first.leaves_after(100) == 80
    second = config.continued(first.continued(80).state_dict(), 50)
    assert {second(n) for n in range(41)} == {0.4}
    assert second(50) == pytest.approx(0.05)
    assert second.leaves_after(50) == 40
    third = config.continued(second.continued(40).state_dict(), 10)
    assert third.state_dict()["counter"] == 120 and third(8) == 0.4 > third(9)


def test_a_first_dataset_may_end_early() -> None:
    """Catches a second dataset that jumps to the constant rate although the first one ended in the cool-down."""
    config = InfiniteLrConfig(warmup=10, cooldown=20, anneal=0)
    first, whole = config.build(15), config.build(40)
    assert first.leaves_after(15) == 15
    second = config.continued(first.continued(15).state_dict(), 25)
    assert [second(n) for n in range(25)] == [whole(15 + n) for n in range(25)]


def test_independent_of_the_total() -> None:
    """Catches a length that shows in the constant phase: two announced totals, equal beginnings."""
    short, long = (InfiniteLrConfig(warmup=10, cooldown=20, anneal=30).build(total) for total in (100, 1000))
    assert [short(n) for n in range(71)] == [long(n) for n in range(71)]
    open_ended = InfiniteLrConfig(warmup=10, cooldown=20, anneal=0).build(30)
    assert open_ended(10**9) == 0.4


def test_group_multipliers_are_kept() -> None:
    """Catches a schedule that sets one rate for all groups: it gives a share of each group's own peak."""
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    groups = [{"params": [weight], "lr": rate} for weight, rate in zip(weights, (1.0, 0.25), strict=True)]
    optimizer, eta = torch.optim.SGD(groups), schedule()
    peaks = [group["lr"] for group in optimizer.param_groups]
    for step in (10, 100, 500, 900):
        rates = [peak * eta(step) for peak in peaks]
        assert rates[1] == 0.25 * rates[0]


def test_refusals() -> None:
    """Catches rates out of order, a jump after the warm-up, and branches from where none can leave."""
    with pytest.raises(ConfigError, match="must not be above"):
        InfiniteLrConfig.parse({"constant_ratio": 0.1, "min_ratio": 0.2})
    with pytest.raises(ConfigError, match="would jump"):
        InfiniteLrConfig.parse({"cooldown": 0})
    with pytest.raises(ConfigError, match=r"constant_ratio 0.4, style cosine(.|\n)*constant_ratio 0.6"):
        InfiniteLrConfig(constant_ratio=0.6).continued(InfiniteLrConfig().build(9).state_dict(), 9)
    eta = schedule()
    for steps, at, found in ((10, 20, "warm-up"), (10, 900, "annealing"), (0, 300, "0 steps")):
        with pytest.raises(ConfigError, match=found):
            eta.anneal(steps, at=at)

"""Teacher Intervention: quantizers by hand, interventions as identities, what learns when, and the two steps."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from pomona import anatomy
from pomona.anatomy import AttentionCall, Place, tap_inputs
from pomona.distillation import TeacherInterventionConfig
from pomona.distillation.teacher_intervention import Signals, _Attention, distances, mode_at
from pomona.distillation.ternary import fake_rounded, made_ternary, rounded, run_ternary, straight_through, ternary
from pomona.ground.errors import UnsupportedModel
from tests.distillation.classroom import FAMILIES, Numbers, copy_of, lesson_of, prepared, teacher_of, trained
from tests.distillation.test_conformance import assert_identical, state
from tests.tiny import llama

WHOLE = {"weights": "whole", "activation_bits": None}
FAMILIES_TAKEN = ["bert", "gpt2", "llama"]


def test_ternary_by_hand() -> None:
    """Catches the threshold, the scale and the rows: the mean is 1, so 0.7 is the threshold; kept are 1.8, 1.2, 1.5."""
    weight = torch.tensor([[1.8, -1.2, 0.3], [0.5, -1.5, 0.7]])
    assert float(weight.abs().mean()) == pytest.approx(1.0)
    torch.testing.assert_close(ternary(weight), torch.tensor([[1.5, -1.5, 0.0], [0.0, -1.5, 0.0]]))
    by_rows = torch.tensor([[1.5, -1.5, 0.0], [0.0, -1.1, 1.1]])  # thresholds 0.77 and 0.63
    torch.testing.assert_close(ternary(weight, rows=True), by_rows)


@pytest.mark.parametrize("seed", range(3))
def test_ternary_is_the_least_squares_scale(seed: int) -> None:
    """Values -a, 0, a; no other scale on the same mask is nearer; what is ternary stays as it is."""
    weight = torch.randn(7, 9, generator=torch.Generator().manual_seed(seed))
    made = ternary(weight)
    a = made.abs().max()
    assert set(made.unique().tolist()) == {-float(a), 0.0, float(a)}
    errors = [(weight - factor * made).square().sum() for factor in (0.99, 1.0, 1.01)]
    assert errors[1] == min(errors)
    torch.testing.assert_close(ternary(made), made)


def test_rounding_by_hand() -> None:
    """Catches a scale of another number of levels, a range that is not the tensor's own, and a clip that is not one."""
    x = torch.tensor([1.0, -0.3, 0.004, 5.0])
    torch.testing.assert_close(rounded(x, bits=8, clip=2.5), torch.tensor([51, -15, 0, 127]) * 2.5 / 127)
    torch.testing.assert_close(rounded(x, bits=8, clip=None), torch.tensor([25, -8, 0, 127]) * 5 / 127)
    assert fake_rounded(x, bits=None, clip=2.5) is x
    assert bool((rounded(torch.zeros(3), bits=8, clip=2.5) == 0).all())


def test_gradients_pass_straight_through() -> None:
    """Catches gradients of the rounding, and gradients where the value was cut off."""
    x = torch.tensor([1.0, -2.6, 2.4], requires_grad=True)
    (straight_through(x, ternary(x.detach()), 2.5) * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    assert x.grad is not None and x.grad.tolist() == [1.0, 0.0, 3.0]


def test_every_map_is_ternary_while_it_runs() -> None:
    """Catches maps that stay whole, parts of fused parameters that share a scale, a tied table that is rounded, and
    parameters that are left in another state."""
    for family in FAMILIES_TAKEN:
        body = copy_of(teacher_of(family))
        before = state(body.model)

        def look(body: Any = body, before: Any = before) -> None:
            for weight, rows in made_ternary(body):
                now = weight.canonical(getattr(weight.owner, weight.attribute)).detach()
                whole = before[weight.name]
                torch.testing.assert_close(now, ternary(weight.canonical(whole), rows=rows))

        run_ternary(body, look, 2.5)
        assert_identical(state(body.model), before)
        tied = body.head is not None and body.embedding is not None and body.head.parameter is body.embedding.parameter
        assert any(rows for _, rows in made_ternary(body)) is not tied


def test_a_table_of_its_own_is_ternary_by_rows() -> None:
    """Catches a token table that stays whole though no head shares it."""
    body = anatomy.of(llama(tie_word_embeddings=False))
    assert [rows for _, rows in made_ternary(body)].count(True) == 1


@pytest.mark.parametrize("order", ["output", "context", "map"])
def test_interventions_are_exact_without_quantizers(order: Any) -> None:
    """With the teacher's weights every intervention leaves every state as it is. Catches a replaced signal that is
    another one: the normed output for the raw one, scores for maps."""
    for family in FAMILIES_TAKEN:
        teacher = teacher_of(family)
        lesson = lesson_of(TeacherInterventionConfig(order=order, **WHOLE), family, teacher)
        loss = lesson(copy_of(teacher), prepared(lesson))
        assert float(loss.total.detach()) < 1e-5 * int(loss.targets)


@pytest.mark.parametrize("family", FAMILIES_TAKEN)
def test_what_is_replaced(family: str) -> None:
    """Catches an intervention that replaces nothing. Attention of the first block adds what the teacher's adds: with OI
    whatever the student's maps are, with CI if its output map is the teacher's, with MI if that of values is too."""
    teacher = teacher_of(family)
    others = {
        "output": ["query", "key", "value", "output"],
        "context": ["query", "key", "value"],
        "map": ["query", "key"],
    }
    for order, names in others.items():
        lesson: Any = lesson_of(TeacherInterventionConfig(order=order, **WHOLE), family, teacher)
        body = copy_of(teacher)
        for name in names:
            weight = getattr(body.blocks[0].attention, name)
            weight.write_(weight.read() + 0.3 * torch.randn(weight.shape))
        batch = prepared(lesson)
        said = lesson.answers(batch)
        states = [lesson._student(body, batch, said, mode).states[0].detach() for mode in (order, None)]
        torch.testing.assert_close(states[0], said.states[0], rtol=1e-4, atol=1e-5)
        assert not torch.allclose(states[1], said.states[0], rtol=0.05, atol=1e-3)


@pytest.mark.parametrize("order, learns", [("output", ""), ("context", ""), ("map", "value")])
def test_what_the_task_teaches(order: Any, learns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches gradients through what the forward pass does not use: from the logits alone, queries and keys get none
    under any intervention, values under MI alone."""
    monkeypatch.setattr(
        "pomona.distillation.teacher_intervention.distances",
        lambda own, its: {"logits": distances(own, its)["logits"]},
    )
    for family in FAMILIES_TAKEN:
        lesson = lesson_of(TeacherInterventionConfig(order=order, **WHOLE), family)
        body = anatomy.of(FAMILIES[family]())
        lesson(body, prepared(lesson)).total.backward()
        for name in ("query", "key", "value"):
            weight = getattr(body.blocks[0].attention, name)
            grad = weight.parameter.grad
            moved = grad is not None and bool(weight.canonical(grad).any())
            assert moved is (name == learns), (family, name)


def test_scores_teach_their_own_block_alone() -> None:
    """Catches inputs of queries and keys that pass gradients on: under an intervention the score loss of a later block
    reaches that block's queries and keys, and nothing before."""
    for family in FAMILIES_TAKEN:
        for order in ("output", "context", "map"):
            lesson = lesson_of(TeacherInterventionConfig(order=order, **WHOLE), family)
            body = anatomy.of(FAMILIES[family]())
            batch = prepared(lesson)
            own = lesson._student(body, batch, lesson.answers(batch), order)  # type: ignore[attr-defined]
            own.scores[1].clamp_min(-50).square().sum().backward()
            grads = [block.attention.query.parameter.grad for block in body.blocks]
            assert grads[0] is None or not bool(grads[0].any())
            last = body.blocks[1].attention
            assert grads[1] is not None and bool(last.query.canonical(grads[1]).any())
            assert body.embedding is not None
            below = body.embedding.parameter.grad
            assert below is None or not bool(below.any())


def test_modes_and_their_borders() -> None:
    """Catches a step too many or too few: with s = 60 ten of outputs, ten of contexts, forty of maps, then none."""
    counts = {
        order: Counter(mode_at(step, 60, order) for step in range(100))
        for order in ("gradual", "inverted", "random", "map")
    }
    assert counts["gradual"] == {"output": 10, "context": 10, "map": 40, None: 40}
    assert counts["inverted"] == {"output": 20, "context": 20, "map": 20, None: 40}
    assert counts["map"] == {"map": 60, None: 40} and min(counts["random"].values()) > 8
    assert [mode_at(step, 60, "gradual") for step in (9, 10, 19, 20, 59, 60)] == [
        "output", "context", "context", "map", "map", None,
    ]  # fmt: skip
    assert [mode_at(step, 60, "inverted") for step in (19, 20, 40)] == ["map", "context", "output"]


def test_distances_by_hand() -> None:
    """Catches a part that is missing, a mean over something else, and hidden scores that count."""
    one, other = Signals(), Signals()
    for signals, value in ((one, 1.0), (other, 3.0)):
        signals.logits = torch.tensor([[value, 0.0]])
        signals.stream = {0: torch.full((2, 2), value), 1: torch.zeros(2)}
        signals.scores = {0: torch.tensor([value, -100.0, -3e38])}
        signals.states = {0: torch.tensor([value, 0.0])}
    found = {name: float(part) for name, part in distances(one, other).items()}
    kl = functional.kl_div(one.logits.log_softmax(-1), other.logits.log_softmax(-1), reduction="sum", log_target=True)
    assert found == pytest.approx({"logits": float(kl), "hidden": 4.0, "scores": 4 / 3, "states": 2.0})
    other.scores = {0: torch.tensor([3.0, -100.0, 7.0])}
    assert float(distances(one, other)["scores"]) == pytest.approx((4 + 49) / 3)


def test_two_steps_with_optimizers_of_their_own(tmp_path: Path) -> None:
    """Catches moments that outlive the first step: a run over both is two runs, one after the other. Without
    intervention steps it is plain distillation of a quantized model, step by step."""

    class Later(Numbers):
        def batch(self, step: int, rank: int = 0, *, micro_batches: int = 1) -> Any:
            return super().batch(step + 3, rank, micro_batches=micro_batches)

    teacher = teacher_of("llama")
    config, plain = (TeacherInterventionConfig(intervention_steps=steps) for steps in (3, 0))
    one, two = copy_of(teacher).model, copy_of(teacher).model
    trained(lesson_of(config, "llama", teacher), one, steps=7)
    trained(lesson_of(config, "llama", teacher), two, steps=3)
    trained(lesson_of(plain, "llama", teacher), two, steps=4, stream=Later())
    assert_identical(state(one), state(two))
    assert lesson_of(config, "llama", teacher).restarts(7) == (3,) and not lesson_of(config, "llama").restarts(3)
    students = [copy_of(teacher).model for _ in range(2)]
    for model, order in zip(students, ("gradual", "map"), strict=True):
        trained(lesson_of(plain.model_copy(update={"order": order}), "llama", teacher), model, steps=3)
    assert_identical(state(students[0]), state(students[1]))


def test_the_finished_student_is_ternary() -> None:
    """Catches weights that are left whole, numbers that the run did not compute with, and sizes without scales."""
    teacher = teacher_of("gpt2")
    lesson, body = lesson_of(TeacherInterventionConfig(activation_bits=None), "gpt2", teacher), copy_of(teacher)
    judge = lesson.judge(lesson.task)
    batch = prepared(lesson)
    with torch.no_grad():
        before = judge(body, batch).total
        facts = lesson.finish_(body)["ternary"]
        torch.testing.assert_close(lesson.task(body, batch).total, before)
    maps = [weight for block in body.blocks for weight in block.weights()]
    assert all(len(weight.read().unique()) == 3 for weight in maps)
    assert facts["weights"] == sum(weight.numel() for weight in maps)
    assert facts["packed_bytes"] == facts["weights"] // 4 + 4 * len(maps)


def test_what_enters_maps_is_rounded() -> None:
    """Catches maps that read whole activations: with 2 bits every input is -1, 0 or 1 times a scale."""
    for family in FAMILIES_TAKEN:
        body = anatomy.of(FAMILIES[family]().eval())
        lesson: Any = lesson_of(TeacherInterventionConfig(weights="whole", activation_bits=2), family, None)
        inputs = lesson.task.inputs(body, prepared(lesson))
        values: list[int] = []

        def run(body: Any = body, inputs: Any = inputs, values: Any = values) -> None:
            with ExitStack() as taps:
                for weight in body.weights():
                    if not weight.fused:
                        taps.enter_context(tap_inputs(weight, lambda rows: values.append(len(rows.unique()))))
                body.hidden(**inputs)

        lesson.quantized(body, run)
        assert len(values) >= 6 and max(values) <= 3, family


def test_operands_of_attention_are_rounded() -> None:
    """Catches queries, keys, values or probabilities that stay whole: each is made zero in turn, by its shape."""
    generator = torch.Generator().manual_seed(0)
    sizes = {"query": (2, 4, 5, 6), "key": (2, 2, 7, 6), "value": (2, 2, 7, 3), "probabilities": (2, 4, 5, 7)}

    def computed(zeroed: str) -> tuple[Signals, Tensor]:
        tensors = [torch.randn(sizes[name], generator=generator) for name in ("query", "key", "value")]
        attention: Any = None
        call = AttentionCall(Place("blocks", 0, False), attention, *tensors, 1.0, False, None)
        noted = Signals()
        one = _Attention(noted, lambda x: torch.zeros_like(x) if tuple(x.shape) == sizes[zeroed] else x)
        return noted, one._compute(call)

    for name in ("query", "key"):
        assert not bool(computed(name)[0].scores[0].any())
    for name in ("value", "probabilities"):
        noted, context = computed(name)
        assert bool(noted.scores[0].any()) and not bool(context.any())


def test_refusals() -> None:
    """Catches a student that has no place for the teacher's signals."""
    teacher = teacher_of("llama", blocks=3)
    with pytest.raises(UnsupportedModel, match="copy of the teacher"):
        lesson_of(TeacherInterventionConfig(), "llama", teacher).check(anatomy.of(llama()))

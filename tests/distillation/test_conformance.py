"""What every distillation method keeps to. A method is tested by being listed in the catalog."""

from __future__ import annotations

import copy
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pomona import anatomy
from pomona.anatomy.architecture import build
from pomona.distillation import DistillationConfig, Lesson, Teacher
from pomona.engine import Batch, Objective, evaluate, measure_flops
from pomona.engine.protocols import IGNORED, count_targets
from pomona.ground.errors import ConfigError, PomonaError, TrainingStopped
from tests.conformance import methods_of, slug_of
from tests.distillation.classroom import (
    FAMILIES,
    TASKS,
    Numbers,
    copy_of,
    lesson_of,
    prepared,
    stirred,
    teacher_of,
    trained,
)

METHODS: list[Any] = [method for method in methods_of("distillation") if issubclass(method, DistillationConfig)]
every_method = pytest.mark.parametrize("method", METHODS, ids=slug_of)


def families_of(config: DistillationConfig) -> list[str]:
    """The families whose models a method takes, teacher and student being of the same."""
    taken = []
    for name, make in FAMILIES.items():
        try:
            lesson_of(config, name, Teacher(make())).check(anatomy.of(make()))
        except PomonaError:
            continue
        taken.append(name)
    return taken


def state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def assert_identical(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert not [name for name in one if not torch.equal(one[name], other[name])]


@every_method
def test_is_an_objective_for_several_families(method: type[DistillationConfig]) -> None:
    """Catches a method for one family only, a wrong count of targets, and a loss that is no number."""
    families = families_of(method())
    assert len(families) >= 2
    for family in families:
        lesson = lesson_of(method(), family)
        batch = prepared(lesson)
        loss = lesson(anatomy.of(FAMILIES[family]()), batch)
        assert isinstance(lesson, Objective) and lesson.name == slug_of(method) and not lesson.is_likelihood
        assert torch.isfinite(loss.total) and loss.total.dim() == 0 and loss.total.requires_grad
        assert int(loss.targets) == count_targets(batch) == int((batch["labels"] != IGNORED).sum()) > 0


@every_method
def test_the_teacher_is_right(method: type[DistillationConfig]) -> None:
    """Catches a loss that is not least where the student computes what the teacher computes, such as one with its
    sign or its direction turned. It is zero there, with the parameters under which a student can be its teacher."""
    config = method(**method.exactly)
    for family in families_of(config):
        teacher = teacher_of(family)
        lesson = lesson_of(config, family, teacher)
        batch = prepared(lesson)
        equal = float(lesson(copy_of(teacher), batch).total.detach())
        for scale in (0.05, 0.2):
            other = anatomy.of(stirred(copy_of(teacher).model, seed=2, scale=scale))
            assert float(lesson(other, batch).total.detach()) > equal + 1e-3
        assert abs(equal) < 1e-5 * count_targets(batch)


@every_method
def test_only_the_student_learns(method: type[DistillationConfig], tmp_path: Path) -> None:
    """Catches a teacher that gets gradients, is put into training mode, moves, or is stored with the student; and a
    student that does not move towards it."""
    family = families_of(method())[0]
    teacher = teacher_of(family)
    lesson, model = lesson_of(method(), family, teacher), FAMILIES[family]()
    before, names, moved = state(teacher.body.model), set(model.state_dict()), state(model)
    batch, losses = prepared(lesson), []
    del batch["step"]
    for _ in range(2):
        with torch.no_grad():
            losses.append(float(lesson(anatomy.of(model.eval()), batch).total))
        trained(lesson, model, steps=12, folder=tmp_path)
    assert_identical(state(teacher.body.model), before)
    assert not any(
        parameter.requires_grad or parameter.grad is not None for parameter in teacher.body.model.parameters()
    )
    assert not teacher.body.model.training and set(model.state_dict()) == names
    assert any(not torch.equal(value, moved[name]) for name, value in model.state_dict().items())
    assert losses[1] < losses[0]


@every_method
def test_a_resumed_run_ends_with_the_same_weights(method: type[DistillationConfig], tmp_path: Path) -> None:
    """Catches state that a checkpoint lacks, a teacher in the checkpoint, and one that may be exchanged unnoticed."""
    family = families_of(method())[0]
    teacher = teacher_of(family)
    whole = FAMILIES[family]()
    trained(lesson_of(method(), family, teacher), whole)

    class Stopping(Numbers):
        def batch(self, step: int, rank: int = 0, *, micro_batches: int = 1) -> list[Batch]:
            if step == 4:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().batch(step, rank, micro_batches=micro_batches)

    with pytest.raises(TrainingStopped):
        trained(lesson_of(method(), family, teacher), FAMILIES[family](), folder=tmp_path, stream=Stopping())
    (checkpoint,) = (tmp_path / "checkpoints").iterdir()
    stored = load_file(checkpoint / "model.safetensors")
    assert stored.keys() <= set(dict(whole.named_parameters())) | set(dict(whole.named_buffers()))
    assert teacher.hash in (checkpoint / "state.json").read_text()
    other = Teacher(stirred(teacher.body.model, seed=5))
    with pytest.raises(ConfigError, match="another objective"):
        trained(lesson_of(method(), family, other), FAMILIES[family](), folder=tmp_path)
    resumed = FAMILIES[family]()
    trained(lesson_of(method(), family, teacher), resumed, folder=tmp_path)
    assert_identical(state(resumed), state(whole))


@every_method
def test_the_teacher_is_charged(method: type[DistillationConfig]) -> None:
    """Catches a teacher that costs nothing: the count of a step is the student's own and the teacher's."""
    family = families_of(method())[0]
    lesson, body = lesson_of(method(), family), anatomy.of(FAMILIES[family]())
    batch = prepared(lesson)
    teacher = lesson.teacher_flops(batch)
    assert teacher > 0

    said = lesson.answers({name: tensor[:1] for name, tensor in batch.items()})
    silent: Any = copy.copy(lesson)
    silent.answers = lambda batch: said
    assert measure_flops(body, lesson, batch) - measure_flops(body, silent, batch) <= teacher
    assert measure_flops(body, lesson, batch) > teacher


@every_method
def test_it_leaves_no_trace(method: type[DistillationConfig]) -> None:
    """Catches taps, kernels and quantizers that stay in the student or in the teacher after a step."""
    for family in families_of(method()):
        lesson, body = lesson_of(method(), family), anatomy.of(FAMILIES[family]().eval())
        inputs = lesson.task.inputs(body, prepared(lesson))
        models = body.model, lesson.teacher.body.model
        with torch.no_grad():
            before = body.hidden(**inputs)
        hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for model in models for m in model.modules()]
        kernels = [model.config._attn_implementation for model in models]
        lesson(body, prepared(lesson)).total.backward()
        assert hooks == [len(m._forward_hooks) + len(m._forward_pre_hooks) for model in models for m in model.modules()]
        assert kernels == [model.config._attn_implementation for model in models]
        with torch.no_grad():
            assert torch.equal(body.hidden(**inputs), before)


@every_method
def test_rows_are_independent(method: type[DistillationConfig]) -> None:
    """Catches a loss that depends on how the batch is cut: the sum over rows is the loss of the batch."""
    if not method.rows_are_independent:
        pytest.skip("the method's own scales are those of a whole batch")
    for family in families_of(method()):
        lesson, body = lesson_of(method(), family), anatomy.of(FAMILIES[family]())
        batch = prepared(lesson)
        whole = lesson(body, batch)
        parts = [lesson(body, {name: tensor[row : row + 1] for name, tensor in batch.items()}) for row in range(4)]
        torch.testing.assert_close(sum(part.total for part in parts), whole.total, rtol=1e-4, atol=1e-4)


@every_method
def test_it_can_be_judged(method: type[DistillationConfig]) -> None:
    """Catches a judge that needs what only training batches have."""
    family = families_of(method())[0]
    lesson, body = lesson_of(method(), family), anatomy.of(FAMILIES[family]())
    batches = [{"tokens": Numbers().batch(0)[0]["tokens"]}]
    assert evaluate(body, lesson.judge(lesson.task), batches).tokens > 0


@every_method
def test_plans_on_shapes_alone(method: type[DistillationConfig]) -> None:
    """Catches a check that needs values where a plan has none, and a model that may teach itself."""
    family = families_of(method())[0]
    model = FAMILIES[family]()
    student, teacher = (anatomy.of(build(type(model), model.config)) for _ in range(2))
    method().check(student, teacher)
    with pytest.raises(ConfigError, match="cannot teach itself"):
        lesson_of(method(), family, Teacher(model)).check(anatomy.of(model))


def test_a_lesson_needs_inputs_that_both_can_read() -> None:
    """Catches an objective that a teacher cannot be asked about, found in the middle of a run."""

    class Blind:
        name = "blind"

    with pytest.raises(ConfigError, match="kd cannot teach blind"):
        methods_of("distillation")[0]().build(teacher_of("llama"), Blind())  # type: ignore[attr-defined]
    assert TASKS.keys() == FAMILIES.keys() and issubclass(Lesson, object)

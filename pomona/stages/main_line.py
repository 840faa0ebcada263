"""The main line of a schedule without end: the state that the next dataset continues from.

Under such a schedule the model that a run delivers is a branch, annealed to be used. What trains on is the state before
the annealing: weights, the optimizer's moments, the place in the schedule and in the data. It lies in the artefact
beside the model (which is an ordinary folder still), and a stage that continues the artefact under a schedule that goes
on starts there.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pomona.engine.protocols import ContinuingMethod, Objective, OpenSchedule, Schedule
from pomona.ground.config import MethodConfig
from pomona.ground.files import require_intact

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from pomona.stages.base import Job, View
    from pomona.stages.training import TrainingStage

FOLDER = "main-line"
Line = Mapping[str, Any]
"""What a manifest says of a main line: the `optimizer` it is trained with, whether its rate was `swept`, the state of
the `schedule` where the run left it, and what it has `read`."""


def line_of(schedule: MethodConfig, source: Mapping[str, Any]) -> Line | None:
    """The main line that a stage with this schedule goes on with; None where it begins one, or has none.

    Args:
        source: facts of the model that is trained on, from its manifest or its forecast.
    """
    line: Line | None = source.get("main_line")
    if line is None or not isinstance(schedule, ContinuingMethod):
        return None
    return line if line["schedule"].get("method", schedule.method) == schedule.method else None


def build(schedule: MethodConfig, line: Line | None, steps: int) -> Schedule:
    """The schedule of a run of `steps` steps. Raises `ConfigError` where it does not fit the main line."""
    made: Schedule
    if line is not None and isinstance(schedule, ContinuingMethod):
        made = schedule.continued(line["schedule"], steps)
    else:
        made = schedule.build(steps)  # type: ignore[attr-defined]
    return made


def resumes_state(schedule: MethodConfig, line: Line | None) -> bool:
    """Whether weights and moments are those of the main line, and not those of the annealed model."""
    return line is not None and isinstance(schedule, ContinuingMethod) and schedule.resumes_state


def fork_of(schedule: Schedule, steps: int) -> int | None:
    """After how many steps a run leaves the main line; None where there is no such line."""
    return schedule.leaves_after(steps) if isinstance(schedule, OpenSchedule) else None


def described(
    schedule: Schedule, steps: int, optimizer: MethodConfig, swept: bool, read: Any = None
) -> dict[str, Any] | None:
    """The main line that a run leaves, as plain values for its manifest; None where there is none."""
    fork = fork_of(schedule, steps)
    if fork is None or not isinstance(schedule, OpenSchedule):
        return None
    return {
        "optimizer": optimizer.model_dump(mode="json"),
        "swept": swept,
        "schedule": schedule.continued(fork).state_dict(),
        "read": read,
    }


def check(stage: TrainingStage, line: Line | None, view: View) -> None:
    """Report what would make a break in the main line: another optimizer, or a search for another rate."""
    if not resumes_state(stage.schedule, line):
        return
    assert line is not None
    before, now = dict(line["optimizer"]), stage.optimizer.model_dump(mode="json")
    free = {"learning_rate"} if line["swept"] else set()
    other = sorted(key for key in {*before, *now} - free if before.get(key) != now.get(key))
    way_out = "or set `start: annealed` of the schedule, which begins with new moments"
    if before["method"] != now["method"]:
        other = ["method"]
    if other:
        shown = ", ".join(f"{key} {before.get(key)}" for key in other)
        view.problem(
            "optimizer", f"the main line that is continued was trained with {shown}", f"use the same, {way_out}"
        )
    if stage.sweep is not None:
        view.problem("sweep", "the main line that is continued keeps its learning rate", f"remove the sweep, {way_out}")


def optimizer_of(stage: TrainingStage, line: Line | None) -> MethodConfig:
    """The stage's optimizer, at the rate that a sweep found for the main line."""
    if line is None or not resumes_state(stage.schedule, line) or not line["swept"]:
        return stage.optimizer
    return stage.optimizer.model_copy(update={"learning_rate": line["optimizer"]["learning_rate"]})


def restore(source: Path, model: PreTrainedModel, optimizer: torch.optim.Optimizer, objective: Objective) -> None:
    """Put the state of a main line into a model, its optimizer, whose rates stay, and its objective.

    Raises `DamagedArtefact`.
    """
    from pomona.engine import auxiliary
    from pomona.engine.checkpoint import Checkpoints

    require_intact(source / FOLDER)
    rates = [group["lr"] for group in optimizer.param_groups]
    _, _, extra = Checkpoints(source).load(source / FOLDER, model, optimizer)
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = group["peak_lr"] = rate
    auxiliary.restore(objective, extra)


def keep(job: Job) -> None:
    """Move the state that `fit` kept into the artefact."""
    (state,) = (job.work / "fit" / "kept").glob("step-*")
    shutil.copytree(state, job.folder / FOLDER)

"""`examine`: quality, size, speed and samples of several models, on the same held-out text."""

from __future__ import annotations

from typing import ClassVar

from pydantic import PositiveInt

from pomona.catalog import Accelerator, Benchmark, ObjectiveMethod
from pomona.ground.errors import PomonaError
from pomona.stages.base import ArtefactKind, Forecast, Job, Made, Need, Stage, View


class ExamineStage(Stage):
    """Measure models on the same held-out text: quality, size, decode speed, samples."""

    verb = "examine"
    makes: ClassVar[ArtefactKind] = "examination"

    models: tuple[str, ...] = ()
    """Names of stages, or folders. Default: every model that no later stage trains on."""
    data: str | None = None
    """The tokens whose held-out part is used: name of a stage, or a folder."""
    objective: ObjectiveMethod | None = None
    """What the models are scored by. Default: what they were trained for. Causal models also get speed and samples."""
    tokens: PositiveInt = 131_072
    """Held-out tokens."""
    seq_length: PositiveInt | None = None
    """Tokens per sequence. Default: as the models were trained, the shortest of them, else 256."""
    decode_tokens: PositiveInt = 128
    """Tokens that are written to measure the speed."""
    accelerator: Accelerator | None = None
    """What runs the models while they are scored, such as `minference`. Speed and samples are without it."""
    benchmark: Benchmark | None = None
    """What the models are asked besides, such as `scbench`; every answer stands in benchmark.json."""
    prompts: tuple[str, ...] = ()
    """Texts that every model continues. Default: the beginnings of some held-out documents."""

    def needs(self) -> tuple[Need, ...]:
        return (
            Need("models", "model", self.models, default="ends"),
            Need("data", "tokens", (self.data,) if self.data else ()),
        )

    def plan(self, view: View) -> Forecast:
        from pomona import anatomy
        from pomona.stages import fitting

        if not view.all("models"):
            view.problem("models", "there is no model to examine")
        known = [each.known for each in view.all("models")]
        method, length = (
            fitting.common_objective(view, self.objective, known),
            fitting.length_of(self.seq_length, known),
        )
        objective = fitting.objective_for(view, method, seq_length=length) if method else None
        flops = 0.0
        for forecast in view.all("models"):
            if (model := forecast.known.get("model")) is not None:
                body = anatomy.of(model)
                for field in ("accelerator", "benchmark"):
                    try:
                        if (chosen := getattr(self, field)) is not None:
                            chosen.check(body)
                    except PomonaError as error:
                        view.problem(field, str(error))
                if objective is None or fitting.check_model(view, objective, body):
                    flops += self.tokens * body.flops_per_token(length, training=False)
        return Forecast(
            tokens=self.tokens * len(view.all("models")), flops=flops, note=f"{len(view.all('models'))} models"
        )

    def seconds(self, view: View, forecast: Forecast) -> float | None:
        from pomona.ground.machine import matmul_rate

        return (
            None if forecast.flops is None else 5.0 * len(view.all("models")) + forecast.flops / (0.3 * matmul_rate())
        )

    def make(self, job: Job) -> Made:
        from pomona.stages.measuring import examine

        return examine(self, job)

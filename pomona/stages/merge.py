"""`merge`: make one model out of several."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from pomona.catalog import Merging
from pomona.ground.errors import PomonaError
from pomona.stages.base import ArtefactKind, Forecast, Job, Made, Need, Stage, View

READ_RATE = 2e8
"""Bytes per second of reading, checking and merging; a cautious guess, since files may lie on a slow disk."""


class MergeStage(Stage):
    """Make one model out of several that were trained from one base."""

    verb = "merge"
    makes: ClassVar[ArtefactKind] = "model"
    flat = "method"

    base: str
    """The model that the experts were trained from: name of a stage, or a folder. Its tokenizer is theirs."""
    experts: tuple[str, ...] = Field(min_length=1)
    """The models to merge: names of stages, or folders."""
    method: Merging = Field(default="linear", validate_default=True)
    """How weights are combined; the method's own parameters (density, weights ...) stand beside it."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """What the merged weights are stored in. Default: as those of the base. The arithmetic is in a wider one."""

    def needs(self) -> tuple[Need, ...]:
        return (Need("base", "model", (self.base,)), Need("experts", "model", self.experts))

    def plan(self, view: View) -> Forecast:
        from pomona.merging.matching import require_same_anatomy
        from pomona.merging.tokenizers import require_same_tokenizer
        from pomona.stages import models
        from pomona.stages.fitting import trained_for

        try:
            self.method.check(len(self.experts))  # type: ignore[attr-defined]
        except PomonaError as error:
            view.problem(error.where or "method", f"{error.what}; needs {error.needs}", error.do or "")
        base, experts = models.expected(view, "base"), models.all_expected(view, "experts")
        if base is None:
            return Forecast()
        own = view.known("base", "folder")
        for label, expert, forecast in zip(self.experts, experts, view.all("experts"), strict=False):
            folder = forecast.known.get("folder")
            try:
                if expert is not None:
                    require_same_anatomy(base, [expert], [label])
                if own is not None and folder is not None:
                    require_same_tokenizer(own, [folder], [label])
            except PomonaError as error:
                view.problem("experts", f"{error.what}: {error.found}", error.do or "")
        objective = next((found for each in view.all("experts") if (found := trained_for(each.known))), None)
        return Forecast(
            parameters=base.num_parameters(),
            note=f"{self.method.method} of {len(self.experts)}",
            known={"model": base, "objective": objective or trained_for(view.one("base").known)},
        )

    def seconds(self, view: View, forecast: Forecast) -> float | None:
        return 2.0 + (forecast.parameters or 0) * 4 * (len(self.experts) + 2) / READ_RATE

    def make(self, job: Job) -> Made:
        from pomona.stages.merged import merge

        return merge(self, job)

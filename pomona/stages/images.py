"""`images`: pictures of one size, divided into what is trained on, what is chosen by, and what is told in the end."""

from __future__ import annotations

from typing import Any, ClassVar

from pomona.data.config import ImagesConfig
from pomona.ground.errors import DataError, PomonaError
from pomona.stages.base import ArtefactKind, Forecast, Job, Made, Stage, View


class ImagesStage(Stage, ImagesConfig):
    """Read a folder of pictures, with sub-folders as labels, or draw letters and digits (`env:glyphs`)."""

    verb = "images"
    makes: ClassVar[ArtefactKind] = "images"

    def config(self) -> ImagesConfig:
        """What the data room is told."""
        return ImagesConfig.model_validate(self.model_dump(include=set(ImagesConfig.model_fields)))

    def outside(self) -> Any:
        from pomona.data.image_folder import fingerprint

        try:
            return fingerprint(self.config())
        except DataError:
            return None  # the plan says so

    def plan(self, view: View) -> Forecast:
        from pomona.data.image_folder import check_images

        known: dict[str, Any] = {"pictures": [self.channels, self.size, self.size]}
        note = f"{self.source}, {self.size} x {self.size}"
        if view.made:
            return Forecast(note=note, known=known)
        try:
            known["count"] = check_images(self.config())
        except PomonaError as error:
            key = error.where if error.where in ImagesConfig.model_fields else "source"
            view.problem(key, str(error) if key == "source" else error.what, error.do or "")
            return Forecast(note=note, known=known)
        return Forecast(note=f"{known['count']:,} pictures of {note}", known=known)

    def seconds(self, view: View, forecast: Forecast) -> float | None:
        count: int | None = forecast.known.get("count")
        return None if count is None else 1e-3 * count  # of small ones

    def make(self, job: Job) -> Made:
        from pomona.data.image_folder import make_images

        job.work.mkdir(parents=True, exist_ok=True)
        facts = make_images(self.config(), job.folder, job.work / "pixels.npy")
        labels = f", {len(facts['labels'])} labels" if facts["labels"] else ""
        note = f"{facts['train']:,} to train on, {facts['test']:,} to test{labels}"
        return Made({**facts, "note": note})

"""`corpus`: documents from all sources, without copies, divided into train and validation."""

from __future__ import annotations

import shutil
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

from pomona.data.config import CorpusConfig
from pomona.ground.files import MANIFEST
from pomona.stages.base import ArtefactKind, Forecast, Job, Made, Stage, View

if TYPE_CHECKING:
    from pomona.data.estimate import Estimate


class CorpusStage(Stage, CorpusConfig):
    """Read text from files, folders, hub datasets or this Python environment."""

    verb = "corpus"
    makes: ClassVar[ArtefactKind] = "corpus"

    def config(self) -> CorpusConfig:
        """What the data room is told."""
        return CorpusConfig.model_validate(self.model_dump(include=set(CorpusConfig.model_fields)))

    def outside(self) -> Any:
        from pomona.data.sources import fingerprint

        return fingerprint(self.config())

    def plan(self, view: View) -> Forecast:
        from pomona.data.estimate import estimate

        size = cache(lambda: estimate(self.sources))  # asked only while something is still to be made of it
        return Forecast(note=", ".join(source.path for source in self.sources), known={"size": size})

    def seconds(self, view: View, forecast: Forecast) -> float | None:
        size: Estimate | None = forecast.known["size"]()
        return None if size is None else size.corpus_seconds()

    def make(self, job: Job) -> Made:
        from pomona.data.corpus import make_corpus

        corpus = make_corpus(self.config(), job.work / "corpus")
        for file in corpus.folder.iterdir():
            if file.name != MANIFEST:
                shutil.move(file, job.folder / file.name)
        documents, size = corpus.count("train"), corpus.bytes("train")
        note = f"{documents:,} documents, {size / 1e6:.1f} MB to train on"
        return Made({**corpus.facts, "note": note})

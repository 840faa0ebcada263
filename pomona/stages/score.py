"""How likely a model finds every chunk of a corpus: made by `select`, once for each model, and kept."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import PositiveInt

from pomona.stages.base import Artefact, ArtefactKind, Job, Made, Need, Stage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pomona.anatomy import Anatomy
    from pomona.data import Split

NATS, HELD_OUT = "nats.f32", 32
"""The file of scores; chunks of held-out text on which models are compared."""
BLOCK = 512
"""Chunks between two files of an unfinished score."""


class ScoreStage(Stage):
    """Nats per token of every chunk by one model. No verb of a recipe: `select` asks for it."""

    verb = "score"
    makes: ClassVar[ArtefactKind] = "scores"

    role: Literal["teacher", "reference"]
    """Which input of `select` the model is."""
    chunk_length: PositiveInt
    """Predicted tokens of a chunk."""
    precision: Literal["fp32", "auto"] = "fp32"
    """Format of matrix products."""
    batch_size: PositiveInt = 16
    """Chunks of a pass."""
    silent: ClassVar[frozenset[str]] = frozenset({"batch_size"})

    def needs(self) -> tuple[Need, ...]:
        return (Need("data", "tokens"), Need(self.role, "model"))

    def make(self, job: Job) -> Made:
        from pomona import anatomy
        from pomona.data import Tokens
        from pomona.data.tokenizer import end_of_document
        from pomona.engine import Ledger
        from pomona.engine.speed import fast_products, training_dtype
        from pomona.selection import Chunks, nats_of_chunks

        tokens = Tokens.open(job.input("data").folder)
        model = anatomy.load(job.input(self.role).folder).eval()
        body, ledger, start = anatomy.of(model), Ledger(), time.perf_counter()
        tokens.require_vocabulary(body.vocab_size, f"the {self.role}")
        end, dtype = end_of_document(tokens.tokenizer), training_dtype(self.precision)

        def nats(split: Split, chunks: Chunks, numbers: range) -> NDArray[np.float32]:
            return nats_of_chunks(body, split, chunks, numbers, end=end, batch_size=self.batch_size, dtype=dtype)

        with fast_products(body, model.device):
            flops = forward_flops(body, self.chunk_length)
            held_out = Chunks(tokens.validation.count, self.chunk_length)
            some = range(min(HELD_OUT, len(held_out)))
            judged = float(nats(tokens.validation, held_out, some).mean()) if some else None
            chunks = Chunks(tokens.train.count, self.chunk_length)
            found = in_blocks(job.work, len(chunks), lambda numbers: nats(tokens.train, chunks, numbers))
        found.tofile(job.folder / NATS)
        seen = tokens.train.count + sum(held_out.span(number)[1] for number in some)
        ledger.charge("score", flops=flops * seen, seconds=time.perf_counter() - start, tokens=seen)
        note = f"{len(chunks):,} chunks of {self.chunk_length} tokens, {found.mean():.3f} nats per token"
        return Made({"chunks": len(chunks), "held_out": judged, "note": note}, ledger)


def nats_in(artefact: Artefact) -> NDArray[np.float32]:
    """The scores of an artefact, (chunks,) float32."""
    import numpy as np

    return np.fromfile(artefact.folder / NATS, dtype="<f4")


def forward_flops(body: Anatomy, length: int) -> float:
    """FLOPs of a token in a scoring pass, counted on one chunk."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from pomona.selection.likelihood import token_nats

    ids = torch.zeros((1, length), dtype=torch.int64, device=body.model.device)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        token_nats(body, body.hidden(input_ids=ids), ids)
    return float(counter.get_total_flops()) / length


def in_blocks(work: Path, count: int, score: Callable[[range], NDArray[np.float32]]) -> NDArray[np.float32]:
    """Scores of `count` chunks, written down block by block, so that a killed run repeats one block at most."""
    import numpy as np

    from pomona.ground.console import progress_bar
    from pomona.ground.files import atomic_file

    work.mkdir(parents=True, exist_ok=True)
    parts = []
    with progress_bar() as bar:
        task = bar.add_task("scoring", total=count)
        for low in range(0, count, BLOCK):
            numbers = range(low, min(low + BLOCK, count))
            path = work / f"nats-{low:09d}.f32"
            if not path.is_file():
                with atomic_file(path) as part:
                    score(numbers).astype("<f4").tofile(part)
            parts.append(np.fromfile(path, dtype="<f4"))
            bar.update(task, completed=numbers.stop)
    return np.concatenate(parts)

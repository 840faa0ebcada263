"""Well-read students: the loss, the grid of students, and what is never read."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional
from transformers import AutoModel

from pomona import anatomy
from pomona.distillation import KdConfig, Teacher, WellReadStudentsConfig, compact
from pomona.distillation.well_read_students import BLOCKS, HIDDEN
from pomona.ground.errors import ConfigError, UnsupportedModel
from pomona.stages import models
from pomona.tasks import Classify
from tests.distillation.classroom import FAMILIES, copy_of, stirred
from tests.tiny import VOCABULARY

LABELS = ("apple", "pear", "plum")


def classifier(family: str, seed: int = 0) -> object:
    """A classifier of a tiny family."""
    from pomona.tasks.classifier import from_base

    class Padded:
        pad_token_id = 0

    return stirred(from_base(FAMILIES[family](), LABELS, Padded(), seed=seed), seed=seed, scale=0.1).eval()  # type: ignore[arg-type]


def texts(rows: int = 4, length: int = 12) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(16, VOCABULARY, (rows, length), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, 7:] = 0
    return {"input_ids": ids * mask, "attention_mask": mask, "labels": torch.zeros(rows, dtype=torch.int64)}


@pytest.mark.parametrize("family", ["bert", "llama", "gpt2"])
def test_classes_are_learnt_from_the_teacher_alone(family: str) -> None:
    """Catches a loss of single tokens, padding that is read, labels that count, and a mean for a sum: it is soft
    cross-entropy of the classes less the teacher's entropy."""
    teacher, body = Teacher(classifier(family)), anatomy.of(classifier(family, seed=1))
    lesson = WellReadStudentsConfig().build(teacher, Classify())
    batch = texts()
    loss = lesson(body, batch)
    given = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        p, log_q = (model(**given).logits.log_softmax(-1) for model in (teacher.body.model, body.model))
    p = p.exp()
    expected = -(p * log_q).sum() + (p * p.log()).sum()
    torch.testing.assert_close(loss.total.detach(), expected, rtol=1e-4, atol=1e-5)
    assert int(loss.targets) == 4
    relabelled = {**batch, "labels": torch.tensor([2, 1, 0, 2])}
    assert torch.equal(lesson(body, relabelled).total, loss.total)
    assert float(lesson(copy_of(teacher), batch).total.detach()) < 1e-5
    plain = KdConfig().build(teacher, Classify())
    assert torch.equal(plain(body, batch).total, loss.total)


def test_a_certain_teacher_gives_the_labels_loss() -> None:
    """Limit: with all on one class it is the loss of tuning on labels."""
    body = anatomy.of(classifier("bert"))
    teacher = Teacher(classifier("bert", seed=1))
    with torch.no_grad():
        teacher.body.model.classifier.weight.zero_()
        teacher.body.model.classifier.bias.copy_(torch.tensor([0.0, 1e4, 0.0]))
    batch = {**texts(), "labels": torch.ones(4, dtype=torch.int64)}
    lesson = WellReadStudentsConfig().build(teacher, Classify())
    logits = body.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    hard = functional.cross_entropy(logits, batch["labels"], reduction="sum")
    torch.testing.assert_close(lesson(body, batch).total, hard)


@pytest.mark.parametrize("name, millions", [("tiny", 4.4), ("mini", 11.3), ("small", 29.1), ("medium", 41.7)])
def test_the_grid_has_the_papers_sizes(name: str, millions: float) -> None:
    """Catches other heads, feed-forwards or depths: parameter counts of the released models, within 2 %."""
    config = models.config_from(compact(name, "bert"), 30_522)
    with torch.device("meta"):
        model = AutoModel.from_config(config)
    assert model.num_parameters() == pytest.approx(1e6 * millions, rel=0.02)
    assert len(BLOCKS) * len(HIDDEN) == 24


def test_refusals() -> None:
    """Catches students that are not of the grid, and classes that are not the teacher's."""
    with pytest.raises(ConfigError, match="mini"):
        compact("minni", "bert")
    with pytest.raises(ConfigError, match="3 blocks"):
        compact((3, 128), "bert")
    with pytest.raises(UnsupportedModel, match="different things"):
        WellReadStudentsConfig().check(anatomy.of(FAMILIES["bert"]()), anatomy.of(classifier("bert")))

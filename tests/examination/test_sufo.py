"""SUFO's numbers: invariances, by hand, against SciPy, planted outliers, and what models are left like."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.spatial.distance import pdist

from pomona import anatomy
from pomona.evidence.planted_models import Text, tokenizer_of, train
from pomona.examination import sufo as room
from pomona.examination.probing import ProbeConfig, Subject
from pomona.examination.sufo import (
    SufoConfig,
    explained,
    outlier_order,
    positions,
    probe_f1,
    separation,
    similarity,
    sufo,
)
from pomona.ground.errors import ConfigError
from pomona.ground.quiet import without_bars
from pomona.tasks import Examples
from tests.conformance import methods_of, slug_of

METHODS: list[Any] = methods_of("probe")
draw = np.random.default_rng(0)


def rotation(size: int) -> np.ndarray:
    return np.linalg.qr(draw.normal(size=(size, size)))[0]


def test_similarity_is_of_the_geometry() -> None:
    """Catches cosine on one side, a metric that scale or rotation moves, and ranks without ties in the middle."""
    rows, other = draw.normal(size=(60, 7)), draw.normal(size=(60, 7))
    assert similarity(rows, rows) == pytest.approx(1.0)
    assert similarity(rows, 3.0 * rows @ rotation(7) + 5.0) == pytest.approx(1.0)
    assert abs(similarity(rows, rows[draw.permutation(60)])) < 0.1
    assert similarity(rows, other) == pytest.approx(stats.spearmanr(pdist(rows), pdist(other)).statistic)


def test_components() -> None:
    """Catches variances of rows that are not centred, and pieces that do not add up to them."""
    rows = draw.normal(size=(50, 6)) * np.array([5, 3, 1, 1, 1, 1]) + 100
    expected = np.linalg.eigvalsh(np.cov(rows.T))[::-1]
    np.testing.assert_allclose(explained(rows), expected / expected.sum(), rtol=1e-9)


def test_separation_by_hand() -> None:
    """Catches a basis of another model, and classes that count by their size."""
    final = np.array([[4.0, 0, 0], [5, 0, 0], [4, 1, 0], [-4, 0, 0], [-5, 0, 0], [-4, -1, 0]])
    labels = np.array([0, 0, 0, 1, 1, 1])
    assert separation(final, final, labels) == 1.0
    hidden = final[:, [2, 1, 0]]
    assert separation(hidden, final, labels) < 1.0, "told apart along a direction that the final model does not use"


def test_probes_find_what_is_there() -> None:
    """Catches a probe that is scored on what it was fitted to, and one that finds nothing."""
    labels = draw.integers(3, size=400)
    rows = draw.normal(size=(400, 20))
    assert probe_f1(rows, labels, 0) < 0.45
    rows[:, 4] += 3 * labels
    assert probe_f1(rows, labels, 0) > 0.8


def test_planted_outliers_come_first() -> None:
    """Catches distances to the centre of all texts in place of their class's, and an order from the nearest."""
    labels = np.repeat([0, 1], 200)
    rows = draw.normal(size=(400, 8)) + 6.0 * labels[:, None]
    strange = [3, 120, 250, 399]
    rows[strange] = rows[strange] + 4 * draw.normal(size=(4, 8))
    rows[7] = rows[300]  # a text of the other class
    assert set(outlier_order(rows, labels)[:8].tolist()) >= {*strange, 7}


def test_positions() -> None:
    """Catches padding that is part of a mean, or taken for the last position."""
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]])
    assert positions(mask, "mean").tolist()[0] == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0])
    assert positions(mask, "last").tolist() == [[0, 0, 1, 0], [1, 0, 0, 0]]
    assert positions(mask, "first").tolist() == [[1, 0, 0, 0], [1, 0, 0, 0]]


@pytest.fixture(scope="module")
def classroom(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Subject], Examples]:
    """A classifier before and after training, and texts."""
    root = tmp_path_factory.mktemp("sufo")
    text = Text(0)
    subjects = []
    for name, steps in (("untuned", 0), ("tuned", 120)):
        with without_bars():
            train(text, 0, steps=steps).save_pretrained(root / name)
        tokenizer_of(text.vocabulary).save_pretrained(root / name)
        subjects.append(Subject(name, root / name))
    (root / "examples").mkdir()
    labels = [f"class{number}" for number in range(4)]
    (root / "examples/labels.json").write_text(json.dumps(labels))
    for side, count in (("train", 0), ("validation", 0), ("test", 200)):
        lines = [json.dumps([item.text, item.label, ""]) for item in text.items(count)]
        (root / f"examples/{side}.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return subjects, Examples.open(root / "examples")


@pytest.mark.parametrize("method", METHODS, ids=slug_of)
def test_what_every_probe_keeps_to(method: type[ProbeConfig], classroom: tuple[list[Subject], Examples]) -> None:
    """Catches a probe that changes a model or its folder or does not repeat itself, and numbers that are none."""
    subjects, examples = classroom
    before = {file: file.read_bytes() for subject in subjects for file in sorted(subject.folder.iterdir())}
    one, again = (method().probe(subjects, examples, seed=1) for _ in range(2))
    assert {file: file.read_bytes() for subject in subjects for file in sorted(subject.folder.iterdir())} == before
    assert one.numbers == again.numbers and one.details == again.details
    assert all(np.isfinite(value) for value in one.numbers.values())
    json.dumps(one.to_dict())
    assert one.method == slug_of(method) and one.seconds > 0


def test_tuning_is_seen(classroom: tuple[list[Subject], Examples]) -> None:
    """Catches subjects in the wrong order, and features of another place."""
    subjects, examples = classroom
    found = sufo(subjects, examples).numbers
    assert found["probe after"] > found["probe before"]
    assert found["two components after"] > found["two components before"]
    assert found["told apart at"] == 1.0
    same = sufo([subjects[1], subjects[1]], examples)
    assert same.details["similarity"] == pytest.approx([1.0] * len(same.details["similarity"]))


def test_the_order_of_texts_does_not_matter(classroom: tuple[list[Subject], Examples]) -> None:
    """Catches features that are put beside the wrong labels."""
    subjects, examples = classroom
    told = examples.side("test")
    straight = room.features_of(subjects[1].folder, told, examples.labels, SufoConfig())
    turned = room.features_of(subjects[1].folder, told[::-1], examples.labels, SufoConfig())
    for one, other in zip(straight, turned, strict=True):
        np.testing.assert_allclose(one, other[::-1], atol=1e-5)


def test_full_rank_gives_the_models_own_answers(classroom: tuple[list[Subject], Examples]) -> None:
    """Catches states that are put back at another place, or without their mean."""
    subjects, examples = classroom
    told = examples.side("test")
    model, batches, back = room.opened(subjects[1].folder, told, examples.labels, SufoConfig())
    body = anatomy.of(model)
    features = room.features_of(subjects[1].folder, told, examples.labels, SufoConfig())[-1]
    order, at = np.argsort(back), 0
    for batch in batches:
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        rows = torch.from_numpy(features[order[at : at + len(batch["labels"])]]).float()
        at += len(rows)
        with torch.no_grad():
            expected = model(**inputs).logits
            with anatomy.replace_outputs(
                body.stacks[0].blocks[-1], lambda hidden, rows=rows: rows[:, None].expand_as(hidden).contiguous()
            ):
                found = model(**inputs).logits
        torch.testing.assert_close(found, expected)


def test_refusals(classroom: tuple[list[Subject], Examples]) -> None:
    """Catches a comparison of one model, and of stacks whose places do not match."""
    subjects, examples = classroom
    with pytest.raises(ConfigError, match="one before tuning"):
        sufo(subjects[:1], examples)

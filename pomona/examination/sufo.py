"""SUFO: examine a tuned encoder four ways: supervised probes, similarity, how its features moved, and outliers.

Source: Hsu et al., "Diagnosing Transformers: Illuminating Feature Spaces for Clinical Decision-Making", ICLR 2024,
arXiv:2305.17588.
Implements: S: macro-F1 of a linear classifier on the frozen features of every place of the stack, before and after
    tuning (Sec. 4.1; the drop from one to the other is what tuning added). U: per place, Spearman's correlation of the
    Euclidean distances between all pairs of texts, before against after (Sec. 4.2). F: features of every snapshot,
    centred by themselves, on the first two right singular vectors of the last one; the share of texts that lie nearest
    to their own class's centroid, and the first snapshot at which that is close to the end's (Sec. 4.3). O: explained
    variance of the leading components after tuning, which classes one of them alone leads the rest of the model to,
    and the texts that are farthest from their class (Sec. 4.4).
Deviations: the snapshots are models in the order in which they are given, the first untuned, the last tuned. The probe
    of S is logistic regression on each place in place of training that freezes k blocks; full tuning is the last model
    itself. Distances to a class are Mahalanobis with a ridge. Each model is centred by itself.
Use when: encoders are to be chosen by more than their score, or a tuned one is to be understood. Cost: one pass of the
    held-out texts through every model, and distances between all pairs of texts.
Relations: none in the catalog yet.
Limits: features are those of one position, or the mean over a text's own positions; at most 2000 texts.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, PositiveInt

from pomona import anatomy
from pomona.anatomy import Anatomy
from pomona.examination.probing import ProbeConfig, ProbeReport, Subject
from pomona.ground.errors import ConfigError

if TYPE_CHECKING:
    from pomona.engine import Batch
    from pomona.tasks import Examples

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
COMPONENTS = 5
RIDGE = 1e-2
"""Share of the mean variance that is added to every direction."""
ALIKE = 1e-5
"""Largest distance, relative to the largest entry, of rows that count as the same."""
CLOSE = 0.95
"""Share of the last snapshot's separation at which classes count as told apart."""


class SufoConfig(ProbeConfig):
    """Probes, similarity, feature dynamics and outliers."""

    method: Literal["sufo"] = "sufo"
    pool: Literal["auto", "first", "mean", "last"] = "auto"
    """Whose state is a text's: the first position (the paper's), the mean, or the last. `auto`: the first of an
    encoder, the last of a decoder."""
    texts: PositiveInt = Field(default=1000, le=2000)
    """Held-out texts that are looked at. The paper: about 1000."""
    seq_length: PositiveInt = 256
    """Tokens of the longest text."""
    outliers: float = Field(default=0.01, gt=0.0, lt=0.5)
    """Share of the texts that are listed for a person to read."""

    def check(self, bodies: Sequence[Anatomy]) -> None:
        if len(bodies) < 2:
            raise ConfigError("sufo compares models", needs="one before tuning and one after", found=str(len(bodies)))
        blocks = {len(body.blocks) for body in bodies}
        if len(blocks) > 1:
            raise ConfigError("sufo compares places of equal stacks", needs="as many blocks", found=str(sorted(blocks)))

    def probe(self, subjects: Sequence[Subject], examples: Examples, *, seed: int = 0) -> ProbeReport:
        start = time.perf_counter()
        self.check([anatomy.of(anatomy.shadow(subject.folder)) for subject in subjects])
        told = examples.side(examples.held_out())[: self.texts]
        labels = np.array([examples.number(example.label) for example in told])
        states = [features_of(subject.folder, told, examples.labels, self) for subject in subjects]
        first, last = states[0], states[-1]
        similar = [similarity(one, other) for one, other in zip(first, last, strict=True)]
        frozen = [probe_f1(place, labels, seed) for place in first]
        tuned = [probe_f1(place, labels, seed) for place in last]
        apart = [separation(state[-1], last[-1], labels) for state in states]
        before, after = (explained(state[-1]) for state in (first, last))
        order = outlier_order(last[-1], labels)
        listed = order[: max(1, round(self.outliers * len(told)))]
        numbers = {
            "probe before": frozen[-1],
            "probe after": tuned[-1],
            "similarity at the end": similar[-1],
            "similarity falls": float(rank_correlation(np.arange(len(similar), dtype=np.float64), np.array(similar))),
            "two components before": float(before[:2].sum()),
            "two components after": float(after[:2].sum()),
            "told apart at": float(first_close(apart)),
            "separation": apart[-1],
        }
        details: dict[str, Any] = {
            "subjects": [subject.name for subject in subjects],
            "probe": {"before": frozen, "after": tuned},
            "similarity": similar,
            "separation": apart,
            "explained": {"before": before[:COMPONENTS].tolist(), "after": after[:COMPONENTS].tolist()},
            "leads_to": led_to(subjects[-1].folder, told, examples.labels, last[-1], self),
            "outliers": [{"text": told[place].text[:400], "label": told[place].label} for place in listed.tolist()],
            "order": order.tolist(),
        }
        return ProbeReport(
            self.method, self.model_dump(mode="json"), numbers, details, seconds=time.perf_counter() - start
        )


@torch.no_grad()
def features_of(folder: Path, told: Sequence[Any], labels: Sequence[str], config: SufoConfig) -> list[Floats]:
    """The state of every text, (texts, D) float64, at every place of the stack: before the first block, after each."""
    model, batches, order = opened(folder, told, labels, config)
    body = anatomy.of(model)
    stack = body.stacks[0]
    places: list[list[NDArray[Any]]] = [[] for _ in range(len(stack.blocks) + 1)]
    for batch in batches:
        where = positions(batch["attention_mask"], pooling(body, config))

        def keep(place: int, hidden: torch.Tensor, where: torch.Tensor = where) -> None:
            places[place].append(torch.einsum("btd,bt->bd", hidden.float(), where).double().numpy())

        with anatomy.tap_stream(stack, keep):
            model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    return [np.concatenate(rows)[order] for rows in places]


def opened(
    folder: Path, told: Sequence[Any], labels: Sequence[str], config: SufoConfig
) -> tuple[Any, list[Batch], Ints]:
    """A model, its texts in batches, and the places at which they are found again in their own order."""
    from transformers import AutoTokenizer

    from pomona.tasks import encode, held_out_batches, ready_tokenizer

    model = anatomy.load(folder)
    tokenizer = ready_tokenizer(AutoTokenizer.from_pretrained(str(folder), local_files_only=True), model)
    longest = min(config.seq_length, anatomy.of(model).max_positions or config.seq_length)
    encoded = encode(told, labels, tokenizer, longest)
    by_length = np.argsort([len(row) for row in encoded.rows], kind="stable")
    back = np.empty(len(by_length), dtype=np.int64)
    back[by_length] = np.arange(len(by_length))
    return model, held_out_batches(encoded), back


def pooling(body: Anatomy, config: SufoConfig) -> str:
    if config.pool != "auto":
        return config.pool
    return "last" if "causal" in body.capabilities else "first"


def positions(mask_BT: torch.Tensor, pool: str) -> torch.Tensor:
    """How much of each position is a text's state, (B, T) float32, summing to one; padding has none."""
    mask = mask_BT.float()
    if pool == "mean":
        return mask / mask.sum(1, keepdim=True)
    place = torch.zeros(len(mask), dtype=torch.int64) if pool == "first" else mask.sum(1).long() - 1
    return torch.nn.functional.one_hot(place, mask.shape[1]).float()


def similarity(one_ND: Floats, other_ND: Floats) -> float:
    """Spearman's correlation of the Euclidean distances between all pairs of rows; 1 for equal geometry.

    It does not change under rotation, translation and scaling of either side. Where all rows of both are the same, as
    before the first block at the first position, the geometry is equal too.
    """
    from scipy.spatial.distance import pdist

    one, other = pdist(one_ND), pdist(other_ND)
    same = [float(each.max()) <= ALIKE * float(np.abs(rows).max()) for each, rows in ((one, one_ND), (other, other_ND))]
    return float(all(same)) if any(same) else rank_correlation(one, other)


def rank_correlation(one: Floats, other: Floats) -> float:
    """Spearman's: Pearson's of the ranks, ties in the middle; 0 where one side is constant."""
    from scipy.stats import rankdata

    a, b = rankdata(one) - (len(one) + 1) / 2, rankdata(other) - (len(other) + 1) / 2
    size = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / size if size else 0.0


def probe_f1(features_ND: Floats, labels_N: Ints, seed: int) -> float:
    """Macro-F1 of logistic regression with a ridge, fitted on one random half of the rows and tried on the other."""
    from scipy.optimize import minimize
    from scipy.special import log_softmax

    from pomona.tasks.classify import macro_f1

    order = np.random.default_rng(seed).permutation(len(labels_N))
    half = len(order) // 2
    train, test = order[:half], order[half:]
    mean, spread = features_ND[train].mean(0), features_ND[train].std(0) + 1e-6
    rows = np.concatenate([(features_ND - mean) / spread, np.ones((len(features_ND), 1))], axis=1)
    classes = int(labels_N.max()) + 1
    targets = np.eye(classes)[labels_N[train]]

    def loss(flat: Floats) -> tuple[float, Floats]:
        weights = flat.reshape(-1, classes)
        logs = log_softmax(rows[train] @ weights, axis=1)
        slope = rows[train].T @ (np.exp(logs) - targets) / half + RIDGE * weights
        return float(-(logs * targets).sum() / half + RIDGE / 2 * (flat @ flat)), slope.ravel()

    start = np.zeros(rows.shape[1] * classes)
    weights = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 200}).x.reshape(-1, classes)
    guessed = (rows[test] @ weights).argmax(1)
    return macro_f1(torch.from_numpy(labels_N[test]), torch.from_numpy(guessed), classes)


def separation(features_ND: Floats, final_ND: Floats, labels_N: Ints) -> float:
    """Mean over classes of the share of rows that lie nearest to their own centroid, on the plane of the final model's
    first two right singular vectors. Each model is centred by itself."""
    centred = features_ND - features_ND.mean(0)
    plane = np.linalg.svd(final_ND - final_ND.mean(0), full_matrices=False)[2][:2]
    flat = centred @ plane.T
    classes = np.unique(labels_N)
    centroids = np.stack([flat[labels_N == each].mean(0) for each in classes])
    nearest = classes[np.square(flat[:, None] - centroids[None]).sum(2).argmin(1)]
    return float(np.mean([(nearest[labels_N == each] == each).mean() for each in classes]))


def first_close(apart: Sequence[float]) -> int:
    """The first snapshot whose separation is nearly the last one's."""
    return next(place for place, value in enumerate(apart) if value >= CLOSE * apart[-1])


def explained(features_ND: Floats) -> Floats:
    """Share of the variance along each principal component, the largest first."""
    values = np.square(np.linalg.svd(features_ND - features_ND.mean(0), compute_uv=False))
    return np.asarray(values / values.sum())


def outlier_order(features_ND: Floats, labels_N: Ints) -> Ints:
    """Rows by their Mahalanobis distance to the centre of their class, the farthest first.

    The spread is that within classes, pooled, with a ridge; centres are medians, which outliers do not pull.
    """
    centres = {each: np.median(features_ND[labels_N == each], axis=0) for each in np.unique(labels_N).tolist()}
    rest = features_ND - np.stack([centres[label] for label in labels_N.tolist()])
    cover = rest.T @ rest / len(rest)
    cover += RIDGE * np.trace(cover) / len(cover) * np.eye(len(cover))
    distances = (rest * np.linalg.solve(cover, rest.T).T).sum(1)
    return np.argsort(-distances, kind="stable")


@torch.no_grad()
def led_to(
    folder: Path, told: Sequence[Any], labels: Sequence[str], features_ND: Floats, config: SufoConfig
) -> list[dict[str, float]]:
    """For each leading component the share of texts that the rest of the model gives each class, when their last state
    is the mean plus that component alone. Empty for models that do not classify."""
    model, batches, back = opened(folder, told, labels, config)
    if getattr(model.config, "num_labels", 0) != len(labels) or not type(model).__name__.endswith("Classification"):
        return []
    body = anatomy.of(model)
    mean = features_ND.mean(0)
    left, sizes, right = np.linalg.svd(features_ND - mean, full_matrices=False)
    order = np.argsort(back)  # the batches' order
    found = []
    for component in range(min(COMPONENTS, len(sizes))):
        alone = mean + np.outer(left[:, component] * sizes[component], right[component])
        given: list[int] = []
        at = 0
        for batch in batches:
            count = len(batch["labels"])
            rows = torch.from_numpy(alone[order[at : at + count]])
            at += count

            def change(hidden: torch.Tensor, rows: torch.Tensor = rows) -> torch.Tensor:
                return rows[:, None].to(hidden).expand_as(hidden).contiguous()

            with anatomy.replace_outputs(body.stacks[0].blocks[-1], change):
                logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
            given += logits.argmax(-1).tolist()
        counts = np.bincount(given, minlength=len(labels)) / len(given)
        found.append({label: float(share) for label, share in zip(labels, counts, strict=True)})
    return found


def sufo(subjects: Sequence[Subject], examples: Examples, config: SufoConfig | None = None) -> ProbeReport:
    """Examine models, the first untuned and the last tuned, on labelled texts; see `SufoConfig`."""
    return (config or SufoConfig()).probe(subjects, examples)

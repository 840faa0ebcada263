"""Logarithms of Bessel functions against SciPy's, over the range that wide features need, and fits with both."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pomona.evidence.assets import base_lm
from pomona.evidence.card import Arm, Card, Metric, Scale, Verdict

if TYPE_CHECKING:
    from torch import Tensor

    from pomona.evidence.table import Table
    from pomona.evidence.trials import Outcome

POINTS, CHECKED, MOST_CHECKED = 20_000, 150, 1500.0
"""Points of the range, points with forty digits, and the largest order and argument of these."""
DIMENSIONS = (2048, 8192, 32_768)
Function = Callable[["Tensor", "Tensor"], "Tensor"]


def arms(scale: Scale) -> Mapping[str, Arm]:
    """One recipe: the trained decoder gives features of documents; the functions are measured by themselves."""
    stages = base_lm(scale, each_seed=True)
    return {"log-bessel": Arm(stages), "SciPy": Arm(stages, "baseline")}


def measure(made: Outcome) -> dict[str, float]:
    """See the metrics."""
    import torch

    from pomona.numerics import log_iv, log_kv

    ours = made.arm == "log-bessel"
    log_i, log_k = (log_iv, log_kv) if ours else scipy_logs()
    draw = torch.Generator().manual_seed(made.seed)
    v, x = points(POINTS, 1e5, 1e6, draw)
    values = torch.cat([log_i(v, x), log_k(v, x)])
    fits = [fitted(ours, p, draw) for p in DIMENSIONS]
    good = [error for error in fits if math.isfinite(error)]
    return {
        "finite": float(values.isfinite().double().mean()),
        "error": checked(log_i, log_k, draw),
        "fits": float(sum(error < 0.1 for error in good)),
        "kappa error": max(good, default=math.inf),
        "nanoseconds": timed(log_i, log_k, draw),
        "accuracy": told_apart(ours, *features(made), draw),
    }


def points(count: int, most_v: float, most_x: float, draw: Any) -> tuple[Tensor, Tensor]:
    """Orders, half of them uniform and half of every size, and arguments of every size from 1e-3 on."""
    import torch

    u = torch.rand(3, count, generator=draw, dtype=torch.float64)
    sizes = torch.exp(math.log(1e-3) + u[0] * math.log(most_v / 1e-3))
    v = torch.where(u[1] < 0.5, sizes, u[0] * most_v)
    return v, torch.exp(math.log(1e-3) + u[2] * math.log(most_x / 1e-3))


def timed(log_i: Function, log_k: Function, draw: Any) -> float:
    """Nanoseconds for a value where SciPy's are finite, too: the middle one of nine passes after a warm-up."""
    v, x = points(POINTS, 100.0, 500.0, draw)
    theirs = scipy_logs()
    fine = theirs[0](v, x).isfinite() & theirs[1](v, x).isfinite()
    v, x = v[fine], x[fine]
    passes = []
    for _ in range(10):
        begin = time.perf_counter()
        log_i(v, x), log_k(v, x)
        passes.append(time.perf_counter() - begin)
    return statistics.median(passes[1:]) / (2 * len(v)) * 1e9


def checked(log_i: Function, log_k: Function, draw: Any) -> float:
    """The largest error of finite values, over max(1, |logarithm|), against forty digits."""
    import torch

    from pomona.numerics import exact

    v, x = points(CHECKED, MOST_CHECKED, MOST_CHECKED, draw)
    worst = 0.0
    for function, truth in ((log_i, exact.log_i), (log_k, exact.log_k)):
        found = function(v, x)
        right = torch.tensor([truth(*pair) for pair in zip(v.tolist(), x.tolist(), strict=True)], dtype=found.dtype)
        errors = ((found - right).abs() / right.abs().clamp(min=1))[found.isfinite()]
        worst = max(worst, float(errors.max()))
    return worst


def scipy_logs() -> tuple[Function, Function]:
    """log(ive) + x and log(kve) - x."""
    import numpy as np
    import torch
    from scipy import special

    def log_i(v: Tensor, x: Tensor) -> Tensor:
        with np.errstate(all="ignore"):
            return torch.from_numpy(np.log(special.ive(v.numpy(), x.numpy()))) + x

    def log_k(v: Tensor, x: Tensor) -> Tensor:
        with np.errstate(all="ignore"):
            return torch.from_numpy(np.log(special.kve(v.numpy(), x.numpy()))) - x

    return log_i, log_k


def fitted(ours: bool, p: int, draw: Any) -> float:
    """The relative error of the kappa that is fitted to directions drawn with a known one; nan where the fit fails."""
    import numpy as np
    import torch
    from scipy import special

    from pomona.numerics import VonMisesFisher

    mean = torch.zeros(p, dtype=torch.float64)
    mean[0] = 1.0
    kappa, v = 0.5 * p, p / 2 - 1
    rows = VonMisesFisher(mean, torch.tensor(kappa, dtype=torch.float64)).sample(300, draw)
    if ours:
        return abs(float(VonMisesFisher.fit(rows).kappa) / kappa - 1)
    length = float(rows.mean(0).norm())
    found = length * (p - length**2) / (1 - length**2)
    with np.errstate(all="ignore"):
        for _ in range(5):
            a = float(special.ive(v + 1, found) / special.ive(v, found))
            found -= (a - length) / (1 - a * a - (p - 1) * a / found)
    return abs(found / kappa - 1)


def features(made: Outcome) -> tuple[Tensor, Tensor]:
    """Mean last hidden states of held-out documents of the six largest packages, and which package each is of."""
    from collections import Counter

    import torch

    from pomona import anatomy
    from pomona.anatomy import tap_stream
    from pomona.data import Corpus, Tokens

    corpus = next(each for each in made.values() if each.kind == "corpus")
    tokens = next(each for each in made.values() if each.kind == "tokens")
    documents = list(Corpus.open(corpus.folder).documents("validation"))
    packages = [document.metadata.get("package", "") for document in documents]
    largest = [name for name, _ in Counter(packages).most_common(6)]
    tokenizer = Tokens.open(tokens.folder).tokenizer
    body = anatomy.of(anatomy.load(made["base"].folder).eval())
    rows: list[Tensor] = []
    labels: list[int] = []
    for document, package in zip(documents, packages, strict=True):
        if package not in largest or labels.count(largest.index(package)) >= 60:
            continue
        ids = torch.tensor([tokenizer(document.text)["input_ids"][:128]])
        last: dict[int, Tensor] = {}
        with torch.no_grad(), tap_stream(body.stacks[0], last.__setitem__):
            body.model(input_ids=ids)
        rows.append(last[len(body.blocks)][0].mean(0))
        labels.append(largest.index(package))
    return torch.stack(rows), torch.tensor(labels)


def told_apart(ours: bool, rows: Tensor, labels: Tensor, draw: Any) -> float:
    """Accuracy on half of the documents of classes fitted to the other half: by densities, or by the nearest mean."""
    import torch

    from pomona.numerics import fit_classes
    from pomona.numerics.von_mises_fisher import directions

    order = torch.randperm(len(rows), generator=draw)
    middle = directions(rows).mean(0)  # what all documents have in common tells nothing
    rows = directions(rows) - middle
    train, test = order[: len(order) // 2], order[len(order) // 2 :]
    classes = fit_classes(rows[train], labels[train])
    found = classes.predict(rows[test]) if ours else (directions(rows[test]) @ classes.means.T).argmax(1)
    return float((found == labels[test]).double().mean())


def judge(table: Table) -> Verdict:
    """See `CARD.rule`."""
    finite, error = min(table.values("log-bessel", "finite")), max(table.values("log-bessel", "error"))
    theirs = max(table.values("SciPy", "finite"))
    fits, their_fits = min(table.values("log-bessel", "fits")), max(table.values("SciPy", "fits"))
    faster = min(table.ratios("SciPy", "log-bessel", "nanoseconds"))
    because = (
        f"{finite:.1%} of the values are finite (SciPy {theirs:.1%}) with errors up to {error:.1g}; {fits:.0f} of "
        f"{len(DIMENSIONS)} fits succeed (SciPy {their_fits:.0f}); {faster:.1f} times as fast on one thread"
    )
    if finite < 1.0 or error > 1e-8:
        return Verdict("not reproduced", because)
    whole = error <= 1e-12 and theirs <= 0.8 and fits == len(DIMENSIONS) > their_fits and faster > 1
    return Verdict("reproduced" if whole else "partly", because)


CARD = Card(
    slug="log-bessel",
    claim="Computed on the logarithmic scale, Bessel functions stay finite, and fits in thousands of dimensions work.",
    equal="orders and arguments, samples, Newton's steps, features and classes; one thread each.",
    rule=(
        "Reproduced: every value is finite with an error of at most 1e-12, at least a fifth of SciPy's are not finite, "
        "all fits come within a tenth of kappa where SciPy's do not all, and it is faster. Partly: finite and within "
        "1e-8, but not all of this. Else not reproduced."
    ),
    metrics=(
        Metric("finite", "share of log I and log K for v up to 1e5, x in [1e-3, 1e6]", "higher"),
        Metric("error", "largest, over max(1, |logarithm|), against forty digits"),
        Metric("fits", f"of kappa at {DIMENSIONS} dimensions that come within a tenth", "higher"),
        Metric("kappa error", "largest relative error of the fits that give a number"),
        Metric("nanoseconds", "per value, where SciPy's is finite"),
        Metric("accuracy", "of packages told by features: by densities (SciPy: by the nearest mean)", "higher"),
    ),
    arms=arms,
    measure=measure,
    judge=judge,
)

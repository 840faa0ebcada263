"""The rules of cards on tables made by hand: what is plain to see is found, and half of it is called half."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pomona.evidence.card import Verdict, card_of
from pomona.evidence.cards.essential_sparsity import SPARSITIES, name_of
from pomona.evidence.table import Table, Trial

Curve = Sequence[tuple[float, float, float]]


def verdict(
    slug: str, arms: Mapping[str, Mapping[str, Sequence[float]]], curves: Mapping[str, Curve] | None = None
) -> Verdict:
    """The verdict of a card on metrics by arm and seed."""
    trials = [
        Trial(
            arm,
            seed,
            {name: values[seed] for name, values in metrics.items()},
            flops=1.0,
            curve=(curves or {}).get(arm, ()),
        )
        for arm, metrics in arms.items()
        for seed in range(3)
    ]
    return card_of(slug).judge(Table(tuple(trials)))


def losses(*values: float) -> dict[str, Sequence[float]]:
    return {"loss": values, "bits per byte": values, "jump": (0.001, 0.0, 0.0)}


FAST: Curve = ((0.5, 0.5, 2.0), (1.0, 1.0, 1.9))
SLOW: Curve = ((0.5, 0.5, 3.0), (1.0, 1.0, 2.0))


def test_optimizers_and_growth() -> None:
    """Catches a turned sign, arms taken for one another, and a rule that asks for the share of the wrong arm."""
    low, middle, high = losses(1.90, 1.91, 1.92), losses(1.98, 1.99, 2.00), losses(2.00, 2.01, 2.02)
    fast, slow = {"conda": FAST, "adamw": SLOW}, {"conda": SLOW, "adamw": SLOW}
    assert verdict("conda", {"adamw": high, "conda": low}, fast).status == "reproduced"
    assert verdict("conda", {"adamw": high, "conda": middle}, slow).status == "partly"
    assert verdict("conda", {"adamw": low, "conda": high}, slow).status == "not reproduced"
    arms = {"from scratch": high, "stacked": low}
    assert verdict("g-stack", arms, {"from scratch": SLOW, "stacked": FAST}).status == "reproduced"
    assert verdict("g-stack", {"from scratch": low, "stacked": high}, dict.fromkeys(arms, SLOW)).status == (
        "not reproduced"
    )
    grown = {"from scratch": high, "grown, fpi": low, "grown, aki": low}
    curves = {"from scratch": SLOW, "grown, fpi": FAST, "grown, aki": FAST}
    assert verdict("bert2bert", grown, curves).status == "reproduced"
    torn = {**grown, "grown, fpi": {**low, "jump": (0.2, 0.2, 0.2)}}
    assert verdict("bert2bert", torn, curves).status == "partly"
    assert verdict("bert2bert", grown, dict.fromkeys(grown, SLOW)).status == "not reproduced"


def test_schedules() -> None:
    """Catches forgetting that is counted as a gain."""

    def arm(average: float, forgetting: float) -> dict[str, Sequence[float]]:
        return {"average loss": [average + 0.01 * seed for seed in range(3)], "forgetting": [forgetting] * 3}

    cosine = arm(3.0, 0.30)
    assert verdict("infinite-lr", {"cosine": cosine, "infinite": arm(2.95, 0.20)}).status == "reproduced"
    assert verdict("infinite-lr", {"cosine": cosine, "infinite": arm(3.10, 0.20)}).status == "partly"
    assert verdict("infinite-lr", {"cosine": cosine, "infinite": arm(3.10, 0.35)}).status == "not reproduced"


def test_compression() -> None:
    """Catches a knee in a straight line, and a ratio that is read upside down."""

    def quantized(three: float, two: float) -> dict[str, Sequence[float]]:
        return {"excess at 4 bits": [0.01] * 3, "excess at 3 bits": [three] * 3, "excess at 2 bits": [two] * 3}

    rounding = quantized(0.1, 1.0)

    def gptq(three: float, two: float) -> str:
        arms = {"rtn": rounding, "rtn, clipped": rounding}
        better = {"gptq": quantized(three, two), "gptq, clipped": quantized(three, two)}
        return verdict("gptq", {**arms, **better}).status

    assert [gptq(0.05, 0.5), gptq(0.09, 0.5), gptq(0.2, 2.0)] == ["reproduced", "partly", "not reproduced"]

    def pruned(knee: float, free: float) -> dict[str, Sequence[float]]:
        return {"free sparsity": [free] * 3, **{name_of(s): [max(0.0, s - knee)] * 3 for s in SPARSITIES}}

    random = pruned(-1.0, 0.0)
    assert verdict("essential-sparsity", {"magnitude": pruned(0.4, 0.4), "random": random}).status == "reproduced"
    assert verdict("essential-sparsity", {"magnitude": pruned(0.0, 0.1), "random": random}).status == "partly"
    assert verdict("essential-sparsity", {"magnitude": random, "random": random}).status == "not reproduced"


def test_conversion() -> None:
    """Catches a faster model that computes something else."""

    def arm(difference: float, time: float) -> dict[str, Sequence[float]]:
        return {"difference": [difference] * 3, "time": [time] * 3, "loss": [2.0] * 3}

    def norms(difference: float, time: float) -> str:
        arms = {"LayerNorm": arm(0.0, 1.0), "Pre-RMSNorm": arm(difference, time), "Pre-CRMSNorm": arm(0.0, time)}
        return verdict("pre-crmsnorm", arms).status

    assert [norms(1e-7, 0.9), norms(1e-7, 1.1), norms(1e-3, 0.9)] == ["reproduced", "partly", "not reproduced"]


def test_distillation() -> None:
    """Catches accuracies that are read as losses, and a claim that rests on the easy half of it."""

    def accuracy(value: float) -> dict[str, Sequence[float]]:
        return {"accuracy": [value, value + 0.5, value + 1.0], "probe": [value] * 3}

    def minilm(alone: float, taught: float, attention: float) -> str:
        arms = {"masked-lm": accuracy(alone), "minilm": accuracy(taught), "attention alone": accuracy(attention)}
        return verdict("minilm", arms).status

    assert [minilm(50, 60, 58), minilm(50, 60, 61), minilm(50, 51, 50)] == ["reproduced", "partly", "partly"]
    assert minilm(60, 50, 50) == minilm(50, 50, 50) == "not reproduced"

    def gap(end: float, half: float) -> dict[str, Sequence[float]]:
        return {"gap": [end, end + 0.01, end + 0.02], "gap half-way": [half, half + 0.01, half + 0.02]}

    def intervention(end: float, half: float) -> str:
        return verdict("teacher-intervention", {"plain": gap(1.0, 2.0), "gradual": gap(end, half)}).status

    assert [intervention(0.8, 1.5), intervention(0.8, 2.1), intervention(1.0, 1.5)] == [
        "reproduced",
        "partly",
        "partly",
    ]
    assert intervention(1.0, 2.0) == intervention(1.2, 2.2) == "not reproduced"


def test_well_read_students() -> None:
    """Catches a verdict that one of the two steps would earn alone."""

    def accuracy(value: float) -> dict[str, Sequence[float]]:
        return {"accuracy": [value, value + 0.5, value + 1.0], "teacher": [90.0] * 3}

    def read(scratch: float, distilled: float, trained: float, both: float) -> str:
        values = {"scratch": scratch, "distilled": distilled, "pre-trained": trained, "both": both}
        return verdict("well-read-students", {name: accuracy(value) for name, value in values.items()}).status

    assert [read(50, 60, 60, 70), read(50, 72, 60, 70), read(70, 60, 60, 50)] == [
        "reproduced",
        "partly",
        "not reproduced",
    ]


def accuracies(**arms: float) -> dict[str, dict[str, Sequence[float]]]:
    """Accuracies of arms, a little apart between seeds."""
    return {name.replace("_", " "): {"accuracy": [value, value + 0.01, value - 0.01]} for name, value in arms.items()}


def test_adapters() -> None:
    """Catches points taken for shares, and an adapter that is praised for being as good as the head alone."""
    for svfit, status in ((0.40, "reproduced"), (0.385, "partly"), (0.30, "not reproduced"), (0.37, "not reproduced")):
        arms = accuracies(head=0.30, lora=0.405, svfit=svfit)
        for arm, trained in (("head", 10.0), ("lora", 1000.0), ("svfit", 60.0)):
            arms[arm]["trained"] = [trained] * 3
        found = verdict("svfit", arms)
        assert found.status == status, svfit
        assert "50 trained parameters to LoRA's 990" in found.because


def test_ranks() -> None:
    """Catches a mean that hides one bad rank."""

    def at(*values: float) -> dict[str, Sequence[float]]:
        found = {f"at rank {rank}": [value] * 3 for rank, value in zip((1, 2, 4, 8), values, strict=True)}
        return {**found, "mean": [sum(values) / 4] * 3}

    own = {f"lora-{rank}": {f"at rank {rank}": [0.4] * 3, "mean": [0.4] * 3} for rank in (1, 2, 4)}
    cut = at(0.2, 0.3, 0.35, 0.4)
    for dylora, status in (
        (at(0.39, 0.4, 0.4, 0.4), "reproduced"),
        (at(0.37, 0.4, 0.4, 0.4), "partly"),
        (at(0.30, 0.4, 0.4, 0.4), "not reproduced"),
        (cut, "not reproduced"),
    ):
        assert verdict("dylora", {"dylora": dylora, "lora-8, cut": cut, **own}).status == status


def test_reversible() -> None:
    """Catches memory or accuracy that is not asked for."""

    def table(meft: float, far: float, deep: float) -> Verdict:
        arms = accuracies(full=0.45, lora=0.40, far_start=far)
        arms |= {"meft-1": {"accuracy": [meft] * 3}, "meft-2": {"accuracy": [0.2] * 3}}
        for values in arms.values():
            values |= {"kept, 4 blocks": [10.0] * 3, "kept, 16 blocks": [100.0] * 3}
        arms["meft-1"]["kept, 16 blocks"] = [deep] * 3
        return verdict("meft", arms)

    assert table(0.39, 0.30, 15.0).status == "reproduced"
    assert table(0.39, 0.38, 15.0).status == "partly"
    assert table(0.39, 0.30, 60.0).status == "not reproduced"
    assert table(0.35, 0.30, 15.0).status == "not reproduced"


def test_x_ecomla() -> None:
    """Catches a verdict that ignores the start, the distance from the source, or what the text alone teaches."""

    def ends(loss: float) -> dict[str, Sequence[float]]:
        values = (loss, loss + 0.01, loss + 0.02)
        return {"loss": values, "gap": [value - 5.0 for value in values], "cache": [50.0] * 3}

    def latent(random: float, svd: float, plain: float) -> str:
        values = {"random, taught": random, "svd, taught": svd, "svd, plain": plain, "svd at 25 %, taught": 5.3}
        return verdict("x-ecomla", {name: ends(value) for name, value in values.items()}).status

    assert [latent(5.3, 5.05, 5.06), latent(5.3, 5.15, 5.2), latent(5.3, 5.05, 5.0)] == [
        "reproduced",
        "partly",
        "partly",
    ]
    assert latent(5.06, 5.05, 5.06) == latent(5.05, 5.05, 5.05) == "not reproduced"

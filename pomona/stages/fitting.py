"""Whether data, objective and model fit together: asked while the plan is made, before anything is computed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pomona.catalog import MethodOf, select
from pomona.ground.config import MethodConfig
from pomona.ground.errors import PomonaError
from pomona.stages.base import View

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from pomona.anatomy import Anatomy
    from pomona.engine import Objective


LENGTH = 256
"""Tokens per sequence where nobody says or knows how many."""


def vocab_size_of(view: View, need: str = "data") -> int | None:
    """The vocabulary of the tokens that a stage is given; None where it is not known yet."""
    size = (view.known(need, "facts") or {}).get("vocab_size") or view.known(need, "vocab_size")
    return None if size is None else int(size)


def pictures_of(view: View, need: str = "data") -> tuple[int, int, int] | None:
    """Channels, height and width of the pictures that a stage is given; None where it is given something else."""
    found = view.known(need, "pictures") or (view.known(need, "facts") or {}).get("pictures")
    return None if found is None else (found[0], found[1], found[2])


def tokenizer_of(view: View, need: str = "data") -> PreTrainedTokenizerBase | None:
    """The tokenizer of the tokens that a stage is given, or one with the same special tokens; None if unknown."""
    if (folder := view.known(need, "folder")) is not None:
        from pomona.stages.models import load_tokenizer

        return load_tokenizer(folder / "tokenizer")
    make = view.known(need, "tokenizer")
    tokenizer: PreTrainedTokenizerBase | None = make() if make else None
    return tokenizer


def objective_for(
    view: View, method: MethodConfig, *, seq_length: int, respect_documents: bool = False
) -> Objective | None:
    """The objective for the stage's data; None, and a problem, where it cannot learn from them.

    For tokens it is built and prepares one sequence, so what it needs (special tokens, enough sentinels) is said by
    itself. Which ones learn from pictures, the catalog says.
    """
    import torch

    if pictures_of(view) is not None:
        able = [row.slug for row in select("objective", modality="image", status="built")]
        if method.method not in able:
            view.problem("objective", f"{method.method} does not learn from pictures", f"{' or '.join(able)} does")
            return None
        made: Objective = method.build(None)  # type: ignore[attr-defined]
        return made
    tokenizer = tokenizer_of(view)
    if tokenizer is None:
        return None
    tokens = torch.zeros(1, seq_length + 1, dtype=torch.int64)
    batch = {"tokens": tokens, "documents": tokens} if respect_documents else {"tokens": tokens}
    try:
        objective: Objective = method.build(tokenizer)  # type: ignore[attr-defined]
        objective.prepare(batch, torch.Generator())
    except PomonaError as error:
        view.problem("objective", str(error))
        return None
    return objective


@dataclass(frozen=True)
class Sequences:
    """What a model reads at a time.

    Attributes:
        length: of its sequences, tokens that it adds itself (a class token) included.
        tokens: of these, what is made of the data: tokens of a text, patches of a picture.
    """

    length: int
    tokens: int


def sequences_of(view: View, body: Anatomy, seq_length: int, need: str = "data") -> Sequences | None:
    """What a model makes of the stage's data; None, and a problem, where it reads something else."""
    from pomona.anatomy.inputs import picture_input

    given, wanted = pictures_of(view, need), picture_input(body)
    name = type(body.model).__name__
    if given is None:
        if wanted is not None:
            view.problem(need, f"{name} reads pictures, not text", "give it what a stage `images` makes")
            return None
        return Sequences(seq_length, seq_length)
    if wanted is None:
        view.problem(need, f"{name} does not read pictures", "give it text, or choose an encoder of images")
        return None
    if given != wanted.shape:
        shown = (" x ".join(map(str, each)) for each in (given, wanted.shape))
        view.problem(
            need,
            f"pictures of {next(shown)} (channels, height, width), the model reads {next(shown)}",
            f"make them with size: {wanted.shape[1]} and channels: {wanted.shape[0]}, or let the model fit them",
        )
        return None
    if any(edge % step for edge, step in zip(wanted.shape[1:], wanted.patch, strict=True)):
        view.problem(
            need,
            f"pictures of {given[1]} x {given[2]} cannot be cut into patches of {wanted.patch[0]} x {wanted.patch[1]}",
            "choose a size that is a multiple of the model's patch_size",
        )
        return None
    return Sequences(wanted.patches + body.own_tokens, wanted.patches)


def train_tokens(view: View, sequences: Sequences, need: str = "data") -> int | None:
    """Tokens, or patches, that there are to train on; None where that is not known yet."""
    facts = view.known(need, "facts") or {}
    if pictures_of(view, need) is not None:
        return facts["train"] * sequences.tokens if facts else None
    return facts.get("train_tokens")


def check_model(
    view: View, objective: Objective, body: Anatomy, key: str = "objective", *, training: bool = False
) -> bool:
    """Whether the objective can run on a model; a problem where not. For training it makes its networks first."""
    from pomona.engine import attach

    try:
        if training:
            attach(objective, body, seed=0)
        objective.check(body)
    except PomonaError as error:
        view.problem(key, str(error))
        return False
    return True


def check_curvature(view: View, optimizer: MethodConfig, objective: Objective) -> None:
    """Report an objective that cannot give an optimizer the curvature that it asks for."""
    from pomona.engine.curvature import check_curvature as check

    request = getattr(optimizer, "curvature", None)
    if request is None:
        return
    try:
        check(request, objective, optimizer.method)
    except PomonaError as error:
        view.problem("optimizer", error.what, error.do or "")


def common_objective(view: View, given: MethodConfig | None, known: Iterable[Mapping[str, Any]]) -> MethodConfig | None:
    """What models are scored by: the given objective, else the one that all of them were trained for.

    None, and a problem, where they were trained for different ones.
    """
    found = [objective for each in known if (objective := trained_for(each)) is not None]
    if given is not None or not found:
        return given or next_token()
    if any(each != found[0] for each in found):
        names = " and ".join(sorted({each.method for each in found}))
        view.problem("objective", f"the models were trained for {names}", "say by which of them they are scored")
        return None
    return found[0]


def objective_of(given: MethodConfig | None, facts: Iterable[Mapping[str, Any]]) -> MethodConfig:
    """The same once the models are made, from their manifests' facts."""
    trained = (trained_for({"facts": each}) for each in facts)
    return given or next((each for each in trained if each is not None), None) or next_token()


def length_of(given: int | None, known: Iterable[Mapping[str, Any]]) -> int:
    """How long the sequences are that models read: as given, else as they were trained on, the shortest of them.

    A model that reads beyond what it was trained on is worse there, whatever has been done to it.
    """
    found = [length for each in known if (length := trained_length(each)) is not None]
    return given or min(found, default=LENGTH)


def trained_length(known: Mapping[str, Any]) -> int | None:
    """Tokens per sequence that a model was or will be trained on, last; None where nobody knows."""
    runs = known.get("facts", {}).get("read", {}).get("runs")
    return int(runs[-1][2]) if runs else known.get("seq_length")


def passed_on(known: Mapping[str, Any]) -> dict[str, Any]:
    """What stays known of a model that is edited."""
    return {"objective": trained_for(known), "seq_length": trained_length(known)}


def facts_of_edited(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The facts that stay true of a model that is edited."""
    return {key: facts[key] for key in ("read", "learning_rate", "objective") if key in facts}


def next_token() -> MethodConfig:
    """What a model of unknown origin is scored by."""
    return MethodOf("objective").validate("next-token")


def judged_by(method: MethodConfig) -> MethodConfig:
    """What a model that is trained by `method` is scored by: the same, unless it names another objective."""
    from pomona.objectives.config import ObjectiveConfig

    other = method.scored_as if isinstance(method, ObjectiveConfig) else None
    return method if other is None else MethodOf("objective").validate(other)


def trained_for(known: Mapping[str, Any]) -> MethodConfig | None:
    """What judges a model, after the objective that it was or will be trained by; None where nobody knows.

    Args:
        known: what the model's forecast knows (`Forecast.known`).
    """
    plain = known.get("facts", {}).get("objective")
    objective: MethodConfig | None = known.get("objective") if plain is None else MethodOf("objective").validate(plain)
    return None if objective is None else judged_by(objective)

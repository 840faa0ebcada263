"""ALERT: turn a code classifier's answer by renaming variables to names that a masked model finds natural.

Source: Yang et al., "Natural Attack for Pre-trained Models of Code", ICSE 2022, arXiv:2201.08698.
Implements: Sec. 3.2: substitutes for each local name from a masked model's predictions at its occurrences, nothing
    being masked, those with the nearest states first. Sec. 3.3, greedy: names by the sum over their occurrences of how
    far the label's probability falls when that one becomes an unknown word; for each the substitute that makes it fall
    most, if it does. Sec. 3.4, genetic: chromosomes of renamings; the base and one for each name with its best
    substitute, and what greedy came to; crossover at one place with probability 0.7, else one name mutates; a child
    replaces the worst member when it is better; max(5 * population, 10) rounds.
Deviations: a name of several parts is put together from the j-th predictions of all of them. Renaming is by scope, so
    that code keeps its meaning (`pomona.examination.renaming`); Python alone. `strategy: random` and `mhm` (Metropolis-
    Hastings renaming, arXiv:2001.05935's idea as the paper's baseline) draw from all names of the given texts.
Use when: a classifier of code shall be trusted with code that others write. Cost: `budget` queries to the victim for
    each text, and a pass of the masked model for each candidate.
Relations: none in the catalog yet.
Limits: texts that are no Python, or have no local variable, are passed over.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field, PositiveInt

from pomona.examination.attacking import AttackConfig, AttackReport, Attempt, Fluency, OutOfQueries, Texts, Victim
from pomona.examination.renaming import Names, is_new, names_of, rename, replace_once
from pomona.ground.errors import DataError

UNKNOWN = "<unk>"
CROSSOVER = 0.7


class AlertAttackConfig(AttackConfig):
    """Rename variables until a classifier of code errs."""

    method: Literal["alert-attack"] = "alert-attack"
    strategy: Literal["greedy+genetic", "greedy", "mhm", "random"] = "greedy+genetic"
    """The paper's, its first half, and two baselines."""
    substitutes: PositiveInt = 30
    """Names that are tried for each name, the most natural ones."""
    queries: PositiveInt = 300
    """Texts that the victim is asked about for each text that is attacked."""
    children: PositiveInt = 8
    """Chromosomes that are asked about at once in the genetic phase."""
    threshold: float = Field(default=0.95, gt=0.0, le=1.0)
    """Of `mhm`: a proposal is accepted with its ratio of probabilities, at most this."""

    @property
    def budget(self) -> int:
        return self.queries

    def attack(self, victim: Victim, fluency: Fluency, texts: Texts, *, seed: int = 0) -> AttackReport:
        start, draw = time.perf_counter(), random.Random(seed)
        parsed = [(text, label, names) for text, label in texts if (names := parsed_or_none(text)) is not None]
        everything = sorted({name for _, _, names in parsed for name in names.places})
        attempts = []
        for text, label, names in parsed:
            victim.begin()
            probabilities = victim.ask([text])[0]
            if best(probabilities) == label and names.places:
                found = Search(self, victim, text, label, names, probabilities[label], draw)
                attempts.append(found.run(fluency, everything))
        return AttackReport(
            self.method,
            self.model_dump(mode="json"),
            tuple(attempts),
            numbers_of(attempts, fluency),
            time.perf_counter() - start,
        )


def parsed_or_none(text: str) -> Names | None:
    """The names of code; None where it is none."""
    try:
        return names_of(text)
    except DataError:
        return None


def best(probabilities: Sequence[float]) -> int:
    return max(range(len(probabilities)), key=lambda place: probabilities[place])


class Success(Exception):
    """The label has turned; `mapping` is the renaming that did it."""

    def __init__(self, mapping: Mapping[str, str]) -> None:
        super().__init__()
        self.mapping = dict(mapping)


class Search:
    """The search for a renaming of one text. What does not turn the label counts by how far its probability falls."""

    def __init__(
        self,
        config: AlertAttackConfig,
        victim: Victim,
        text: str,
        label: int,
        names: Names,
        probability: float,
        draw: random.Random,
    ) -> None:
        self.config, self.victim, self.text, self.label = config, victim, text, label
        self.names, self.before, self.draw = names, probability, draw

    def run(self, fluency: Fluency, everything: Sequence[str]) -> Attempt:
        """Search as the strategy says, until the label turns or the budget is spent."""
        turned: dict[str, str] | None = None
        try:
            if self.config.strategy == "random":
                self.random(everything)
            elif self.config.strategy == "mhm":
                self.metropolis(everything)
            else:
                choices = self.choices(fluency)
                chosen = self.greedy(choices)
                if self.config.strategy == "greedy+genetic":
                    self.genetic(choices, chosen)
        except Success as success:
            turned = success.mapping
        except OutOfQueries:
            pass
        adversarial = None if turned is None else rename(self.text, turned, self.names)
        return Attempt(
            self.text, self.label, adversarial, turned or {}, len(self.names.places), queries=self.victim.spent
        )

    def falls(self, mappings: Sequence[Mapping[str, str]]) -> list[float]:
        """How far the label's probability falls under each renaming; raises `Success` at the first that turns it."""
        texts = [rename(self.text, mapping, self.names) for mapping in mappings]
        answers = self.victim.ask(texts)
        for mapping, probabilities in zip(mappings, answers, strict=False):
            if best(probabilities) != self.label:
                raise Success(mapping)
        return [self.before - probabilities[self.label] for probabilities in answers]

    def choices(self, fluency: Fluency) -> dict[str, list[str]]:
        """Natural substitutes of every name."""
        starts = [0]
        for line in self.text.splitlines(keepends=True):
            starts.append(starts[-1] + len(line))
        found = {}
        for name, places in self.names.places.items():
            stretches = [(starts[each.line - 1] + each.start, starts[each.line - 1] + each.end) for each in places]
            words = fluency.candidates(self.text, stretches[:4], 4 * self.config.substitutes)
            fresh = [word for word in words if is_new(word, self.names) and word != name]
            found[name] = fresh[: self.config.substitutes]
        return {name: words for name, words in found.items() if words}

    def importance(self) -> dict[str, float]:
        """Of every name: how far the label's probability falls, summed over its occurrences, each made unknown."""
        pairs = [(name, place) for name, places in self.names.places.items() for place in places[:8]]
        answers = self.victim.ask([replace_once(self.text, place, UNKNOWN) for _, place in pairs])
        found = dict.fromkeys(self.names.places, 0.0)
        for (name, _), probabilities in zip(pairs, answers, strict=False):
            found[name] += self.before - probabilities[self.label]
        return found

    def greedy(self, choices: Mapping[str, Sequence[str]]) -> dict[str, str]:
        """Name by name, the most important first, the substitute that makes the label's probability fall most."""
        weight = self.importance()
        mapping: dict[str, str] = {}
        reached = 0.0
        for name in sorted(choices, key=lambda name: (-weight[name], name)):
            words = [word for word in choices[name] if word not in mapping.values()]
            tried = [{**mapping, name: word} for word in words]
            if not tried:
                continue
            falls = self.falls(tried)
            place = best(falls)
            if falls[place] > reached:
                mapping, reached = tried[place], falls[place]
        return mapping

    def genetic(self, choices: Mapping[str, Sequence[str]], seeded: Mapping[str, str]) -> None:
        """Cross and mutate renamings; the best one never gets worse."""
        names = list(choices)
        if not names:
            return
        population: list[dict[str, str]] = [{}, dict(seeded)]
        population += [{name: words[0]} for name, words in choices.items()]
        fitness = [0.0, *self.falls(population[1:])]
        population = population[: len(fitness)]
        for _ in range(max(5 * len(population), 10)):
            children = [self.child(population, choices, names) for _ in range(self.config.children)]
            for child, fall in zip(children, self.falls(children), strict=False):
                worst = min(range(len(fitness)), key=lambda place: fitness[place])
                if fall > fitness[worst]:
                    population[worst], fitness[worst] = child, fall

    def child(
        self, population: Sequence[Mapping[str, str]], choices: Mapping[str, Sequence[str]], names: Sequence[str]
    ) -> dict[str, str]:
        """A new renaming from one or two members, whose own are left as they are."""
        if self.draw.random() < CROSSOVER and len(population) > 1:
            one, other = self.draw.sample(list(population), 2)
            cut = self.draw.randrange(len(names) + 1)
            made = {name: one[name] for name in names[:cut] if name in one}
            made |= {name: other[name] for name in names[cut:] if name in other}
        else:
            made = dict(self.draw.choice(list(population)))
            name = self.draw.choice(list(names))
            made[name] = self.draw.choice(list(choices[name]))
        kept: dict[str, str] = {}
        for name, word in made.items():  # two names may have met in one word
            if word not in kept.values():
                kept[name] = word
        return kept

    def random(self, everything: Sequence[str]) -> None:
        """Rename every variable at random, over and over."""
        while True:
            mappings = [self.drawn(everything) for _ in range(self.config.children)]
            self.falls([mapping for mapping in mappings if mapping])

    def metropolis(self, everything: Sequence[str]) -> None:
        """Propose one new name at a time; accept by the ratio of what is left of the label's probability."""
        mapping: dict[str, str] = {}
        probability = self.before
        free = [word for word in everything if is_new(word, self.names)]
        if not free:
            return
        while True:
            left = [word for word in free if word not in mapping.values()]
            if not left:  # every word is in use: begin anew
                mapping, probability, left = {}, self.before, free
            tried = {**mapping, self.draw.choice(list(self.names.places)): self.draw.choice(left)}
            now = self.before - self.falls([tried])[0]
            odds = (1.0 - now + 1e-10) / (1.0 - probability + 1e-10)
            if self.draw.random() < min(self.config.threshold, odds):
                mapping, probability = tried, now

    def drawn(self, everything: Sequence[str]) -> dict[str, str]:
        free = [word for word in everything if is_new(word, self.names)]
        names = list(self.names.places)
        count = min(len(free), len(names))
        if not count:
            raise OutOfQueries
        return dict(zip(self.draw.sample(names, count), self.draw.sample(free, count), strict=True))


def numbers_of(attempts: Sequence[Attempt], fluency: Fluency) -> dict[str, float]:
    """Success, queries, how much was changed, and how natural it is beside the original."""
    hits = [attempt for attempt in attempts if attempt.adversarial is not None]
    ratios = [
        fluency.strangeness(hit.adversarial) / fluency.strangeness(hit.text)
        for hit in hits
        if hit.adversarial is not None
    ]
    return {
        "attacked": float(len(attempts)),
        "success": len(hits) / len(attempts) if attempts else math.nan,
        "queries": sum(attempt.queries for attempt in attempts) / len(attempts) if attempts else math.nan,
        "renamed": sum(len(hit.changes) / hit.places for hit in hits) / len(hits) if hits else math.nan,
        "strangeness": sum(ratios) / len(ratios) if ratios else math.nan,
    }


def alert_attack(
    victim: Victim,
    fluency: Fluency,
    texts: Texts,
    config: AlertAttackConfig | None = None,
    *,
    seed: int = 0,
) -> AttackReport:
    """Attack a classifier of code; see `AlertAttackConfig`."""
    return (config or AlertAttackConfig()).attack(victim, fluency, texts, seed=seed)

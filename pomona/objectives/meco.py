"""MeCo: for most of the run each document follows a line about its source, unscored; the run ends without it.

Source: "Metadata Conditioning Accelerates Language Model Pre-training", arXiv:2501.01956, Sec. 2 (the method), Sec. 4
(which metadata), App. A (recipe); template, masks and packing from the authors' repository (princeton-pli/MeCo).
Implements: first phase  BOS + "URL: " + host + two line ends + text + EOS,  second phase, the last tenth of the steps,
    BOS + text + EOS, from documents that the first has not read. BOS and metadata carry no loss, text and EOS do;
    documents do not see each other, positions start anew at each. Optimizer and schedule know nothing of the phases.
Deviations: a document that a sequence cuts goes on in the next one behind its metadata, where the authors drop the
    rest: their sequences have 8192 tokens, and short ones would lose most of the text. BOS is the end-of-text token
    where the tokenizer has none. A registered domain is the last two parts of the host, without a list of suffixes.
Use when: pre-training on text whose sources are known. Cost: the sequences that metadata takes; no compute of its own.
Relations: `next-token` over the same sequences when the template is empty, or `cooldown` is 1.
Limits: causal models, and kernels that keep documents apart. The number of tokens counts metadata too, so less text is
    read. At inference put `MecoConfig.given` in front: BOS first, then the line, then the prompt.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, NonNegativeInt, field_validator

from pomona.data.packed import PackedStream, PackedWindows, Prefix
from pomona.data.permutation import Permutation, derive_key
from pomona.data.tokenizer import end_of_document
from pomona.objectives.causal import Causal
from pomona.objectives.config import ObjectiveConfig

if TYPE_CHECKING:
    from pomona.data import Tokens

Part = Literal["host", "domain", "suffix", "whole", "hashed"]
UNKNOWN = "unknown"


class MecoConfig(ObjectiveConfig):
    """Predict each token of a document from those before it and a line about its source."""

    method: Literal["meco"] = "meco"
    scored_as: ClassVar[str] = "next-token"
    column: str = "source"
    """Name of the metadata that is given: `url`, `package`, `source`, or any that the corpus carries."""
    template: str = "URL: {value}\n\n"
    """The line in front of a document; without `{value}` it is the same for all."""
    part: Part = "host"
    """What of the value is given: `host` (without scheme and path), its registered `domain`, its `suffix`, the `whole`
    value, or the host `hashed`, which tells sources apart and says nothing about them."""
    cooldown: float = Field(default=0.1, ge=0.0, le=1.0)
    """Share of the steps, at the end, and of the documents, without metadata. 1: never any, 0: to the end."""
    least: NonNegativeInt = 0
    """Sources of fewer documents are called `unknown`."""
    drop: float = Field(default=0.0, ge=0.0, le=1.0)
    """Share of the documents of the first phase that go without."""

    @field_validator("template")
    @classmethod
    def _fits(cls, template: str) -> str:
        try:
            template.format(value="")
        except (KeyError, IndexError, ValueError):
            raise ValueError(f"{template!r} may hold {{value}} and no other braces") from None
        return template

    def build(self, tokenizer: Any) -> Meco:
        """The objective; the tokenizer needs a token that can begin a text."""
        begin_of_text(tokenizer)
        return Meco()

    def given(self, value: str, tokenizer: Any) -> list[int]:
        """The tokens in front of a text from a source, real or invented: in training, and to steer a trained model."""
        line = self.template.format(value=value)
        return [begin_of_text(tokenizer), *tokenizer(line, add_special_tokens=False)["input_ids"]]

    def values(self, raw: Sequence[str | None]) -> list[str]:
        """What is said of each document, given its metadata."""
        parts = [UNKNOWN if value is None else part_of(value, self.part) for value in raw]
        counts = Counter(parts)
        return [part if counts[part] >= self.least else UNKNOWN for part in parts]

    def stream(
        self, tokens: Tokens, *, steps: int, batch_size: int, seq_length: int, seed: int, world_size: int = 1
    ) -> PackedStream:
        """Both phases of a run of `steps` steps.

        Raises:
            DataError: the documents have no such metadata, or a phase has less text than one sequence.
        """
        split, tokenizer = tokens.train, tokens.tokenizer
        plain = np.array([begin_of_text(tokenizer)])
        late = last_documents(len(split.document_starts), self.cooldown, seed)
        switch = round((1 - self.cooldown) * steps)
        phases = []
        if self.cooldown < 1:
            lines = self.values(tokens.metadata("train", self.column))
            dropped = last_documents(len(lines), self.drop, seed, "drop")
            prefix = prefixes(
                [None if gone else line for line, gone in zip(lines, dropped, strict=True)], self, tokenizer
            )
            phases.append((0, PackedWindows(split, np.flatnonzero(~late).tolist(), prefix, seq_length)))
        if self.cooldown > 0:
            windows = PackedWindows(split, np.flatnonzero(late).tolist(), lambda document: plain, seq_length)
            phases.append((switch if phases else 0, windows))
        return PackedStream(phases, batch_size=batch_size, seed=seed, world_size=world_size)


class Meco(Causal):
    """See the card of this module. The phases are the stream's; what is `given` is not counted, see `shifted`."""

    name = "meco"


def part_of(value: str, part: Part) -> str:
    """What of a source is said.

    Example:
        >>> [part_of("https://en.wikipedia.org/wiki/Tea", part) for part in ("host", "domain", "suffix")]
        ['en.wikipedia.org', 'wikipedia.org', 'org']
    """
    if part == "whole":
        return value
    host = re.sub(r"^[A-Za-z][A-Za-z0-9+.-]*://", "", value).split("/", 1)[0]
    if part == "hashed":
        return f"{derive_key(host) >> 32:08x}"
    keep = {"host": 0, "domain": 2, "suffix": 1}[part]
    return ".".join(host.split(".")[-keep:])


def begin_of_text(tokenizer: Any) -> int:
    """The token that every document begins with: BOS, or the end of the text before it."""
    begin = getattr(tokenizer, "bos_token_id", None)
    return end_of_document(tokenizer) if begin is None else int(begin)


def prefixes(lines: Sequence[str | None], config: MecoConfig, tokenizer: Any) -> Prefix:
    """What is given in front of each document: BOS and the line about its source, where there is one (not None)."""
    known = {line: np.array(config.given(line, tokenizer)) for line in set(lines) if line is not None}
    bare = np.array([begin_of_text(tokenizer)])
    return lambda document: bare if (line := lines[document]) is None else known[line]


def last_documents(count: int, share: float, seed: int, what: str = "cooldown") -> NDArray[np.bool_]:
    """(count,) bool, True for a random `share` of the documents, the same in every run of a seed; nested in `share`."""
    if not count:
        return np.zeros(0, dtype=np.bool_)
    places = Permutation(count, derive_key(seed, what))(np.arange(count))
    return np.asarray(places < round(share * count))

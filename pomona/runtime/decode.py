"""Fast generation on the CPU from a dense or a 4-bit folder.

A step is computed by compiled code that knows no family, only the parts that the anatomy names: it is built once per
machine in a few seconds and compared with the model's own forward each time a model is loaded. Where it does not apply,
or does not agree, the model's own forward is used and the reason is said.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pomona.ground.console import say
from pomona.ground.errors import ConfigError, UnsupportedModel
from pomona.runtime.folder import DType, LoadedModel, load_model
from pomona.runtime.forward import Engine, ForwardEngine, NativeEngine, Session
from pomona.runtime.native import NativeStep, NoNativeStep
from pomona.runtime.plan import check, plan_of
from pomona.runtime.sampling import SamplingConfig, choose, generator_of

Compile = Literal["auto", "always", "never"]
Stream = Callable[[int, str], None]
COMPILE_PAYS_AFTER = 3000
"""Tokens from which on tracing the model's own forward (about half a minute) pays for itself."""


@dataclass(frozen=True)
class Generation:
    """What was written after one prompt.

    Args:
        text: the new text, without the prompt; empty when there is no tokenizer.
        tokens: the new tokens, with the end token if it was reached.
        finished: "end" for an end token, "length" when max_new_tokens or the model's positions ran out.
        prompt_tokens: tokens of the prompt.
        first_token_seconds: from the start of the call to this prompt's first new token.
        seconds: from the start of the call to its last one.
        tokens_per_second: pace of the tokens after the first.
    """

    text: str
    tokens: list[int]
    finished: Literal["end", "length"]
    prompt_tokens: int
    first_token_seconds: float
    seconds: float
    tokens_per_second: float


@dataclass(frozen=True)
class DecodeSpeed:
    """How fast one sequence is written.

    Args:
        tokens_per_second: median over short stretches, greedy, batch of one.
        first_token_seconds: from a prompt of `prompt_tokens` to the first new token.
        weight_bytes: all weights as they are held, tied ones once.
        bytes_per_token: weights that one step reads.
        engine: what computed the steps.
        scheme: how the weights are stored.
        load_seconds: from the folder to the first possible step, compilation included.
    """

    tokens_per_second: float
    first_token_seconds: float
    weight_bytes: int
    bytes_per_token: int
    engine: str
    scheme: str
    load_seconds: float
    prompt_tokens: int


class Generator:
    """A loaded model that writes text. Make it with `load`."""

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        compile: Compile = "auto",
        screen_head: bool = True,
        threads: int | None = None,
    ) -> None:
        started = time.perf_counter()
        self.tokenizer: PreTrainedTokenizerBase | None = loaded.tokenizer
        self.scheme, self.weight_bytes, self.notes = loaded.scheme, loaded.weight_bytes, list(loaded.notes)
        self.vocab_size = int(loaded.model.get_input_embeddings().weight.shape[0])
        self.end_tokens = _end_tokens(loaded.model, loaded.tokenizer)
        self.max_positions = _max_positions(loaded.model)
        self.bytes_per_token = loaded.weight_bytes
        self._compile: Compile = compile
        self._loaded: LoadedModel | None = loaded
        self._engine: Engine | None = None
        if compile != "never":
            try:
                step = NativeStep(plan_of(loaded), screen=screen_head, threads=threads)
                check(step, loaded)
            except NoNativeStep as reason:
                self.notes.append(f"decoding through the model's own forward: {reason}")
            else:
                dense = loaded.model.get_input_embeddings().weight.dtype
                self._engine = NativeEngine(step, torch.bfloat16 if dense == torch.bfloat16 else torch.float32)
                self.bytes_per_token = step.bytes_per_token
                self._loaded = None  # the step holds copies of all that it reads
        self.load_seconds = time.perf_counter() - started

    @classmethod
    def load(
        cls,
        source: str | Path | PreTrainedModel,
        *,
        compile: Compile = "auto",
        dtype: DType = "auto",
        tokenizer: PreTrainedTokenizerBase | None = None,
        screen_head: bool = True,
        threads: int | None = None,
        quiet: bool = False,
    ) -> Self:
        """Load a model for generation.

        Args:
            source: a Hugging Face folder (dense safetensors, or compressed-tensors pack-quantized), or a model.
            compile: "auto" builds the decoding step (seconds, once per machine) and traces the model's own forward
                only where that step does not apply and thousands of tokens are asked for; "always" traces it for few
                tokens too; "never" calls no compiler.
            dtype: of dense weights. "auto" keeps the stored one; "bfloat16" halves what float32 weights cost to read,
                for logits that differ by about a hundredth.
            tokenizer: needed for text prompts when the folder has none; for a model always.
            screen_head: find the candidates for the next token in an int8 copy of the head; the choice stays exact.
            threads: by default torch's number.
            quiet: do not print remarks (they stay in `notes`).
        Raises:
            ConfigError, UnsafeFile, DamagedArtefact, UnsupportedModel: see `load_model`.
        """
        started = time.perf_counter()
        if isinstance(source, str | Path):
            loaded = load_model(Path(source), dtype)
        else:
            model = source.eval()
            loaded = LoadedModel(model, tokenizer, model, {}, str(model.dtype).removeprefix("torch."))
        if tokenizer is not None:
            loaded.tokenizer = tokenizer
        _check_vocabulary(loaded)
        generator = cls(loaded, compile=compile, screen_head=screen_head, threads=threads)
        generator.load_seconds = time.perf_counter() - started
        if not quiet:
            for note in generator.notes:
                say(f"[dim]{note}[/]")
        return generator

    @property
    def engine(self) -> str:
        """What computes the steps."""
        return self._engine.name if self._engine is not None else "model's forward"

    def generate(
        self,
        prompts: str | Sequence[str] | Sequence[Sequence[int]],
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
        stream: Stream | None = None,
        stop_at_end: bool = True,
    ) -> list[Generation]:
        """Continue each prompt.

        Args:
            prompts: a text, texts, or lists of token numbers. They are decoded together, without padding: the text
                of a prompt does not depend on the others.
            max_new_tokens, temperature, top_k, top_p, seed: see `SamplingConfig`. Temperature 0 is greedy.
            stream: called with (number of the prompt, new piece of text) as text appears; without a tokenizer the
                piece is the token's number.
            stop_at_end: stop a text at the model's end token.
        Raises:
            ConfigError: a parameter out of range, an empty prompt, one that fills the model's positions, a token
                outside the vocabulary, text without a tokenizer.
        """
        config = SamplingConfig.parse(
            {
                "max_new_tokens": max_new_tokens,
                "temperature": temperature,
                "top_k": top_k,
                "top_p": top_p,
                "seed": seed,
            },
            "generate",
        )
        encoded = self._encode(prompts)
        engine = self._engine_for(config.max_new_tokens * len(encoded))
        results: list[Generation] = []
        for first in range(0, len(encoded), engine.max_slots):
            group = encoded[first : first + engine.max_slots]
            results += self._generate(engine, group, first, config, stream, stop_at_end)
        return results

    def measure(self, tokens: int = 128, prompt_tokens: int = 16, stretches: int = 8) -> DecodeSpeed:
        """Write `tokens` tokens greedily after a random prompt and time it; compilation is not counted."""
        if self.max_positions is not None:
            tokens = min(tokens, self.max_positions - prompt_tokens)
        if tokens < 2 or prompt_tokens < 1:
            raise ConfigError(
                "the speed cannot be measured on so few tokens",
                needs="at least one token of prompt and two new ones",
                found=f"{prompt_tokens} and {tokens}",
            )
        prompt = torch.randint(self.vocab_size, (prompt_tokens,), generator=torch.Generator().manual_seed(0)).tolist()
        engine = self._engine_for(tokens)
        length = max(1, tokens // stretches)
        firsts, paces = [], []
        for attempt in range(2):  # the first one compiles, touches the memory and is not counted
            session = engine.open(1, prompt_tokens + tokens + 1)
            started = time.perf_counter()
            token = self._feed(session, engine, [prompt], keep=1)[0][0][0]
            firsts.append(time.perf_counter() - started)
            position = prompt_tokens
            for _ in range(tokens // length if attempt else 1):
                started = time.perf_counter()
                for _ in range(length if attempt else 2):
                    token = session.advance([token], [0], [position], [0], 1)[0][0]
                    position += 1
                paces.append(length / (time.perf_counter() - started))
        return DecodeSpeed(
            tokens_per_second=statistics.median(paces[1:]),
            first_token_seconds=firsts[-1],
            weight_bytes=self.weight_bytes,
            bytes_per_token=self.bytes_per_token,
            engine=engine.name,
            scheme=self.scheme,
            load_seconds=self.load_seconds,
            prompt_tokens=prompt_tokens,
        )

    def logits(self, tokens: Sequence[int]) -> torch.Tensor:
        """(T, V) float32 logits after each of the T tokens, by the engine that generates."""
        [row] = self._encode([list(tokens)], room=0)
        engine = self._engine_for(0)
        session = engine.open(1, len(row))
        parts = []
        for begin in range(0, len(row), engine.max_rows):
            piece = row[begin : begin + engine.max_rows]
            count = len(piece)
            positions = list(range(begin, begin + count))
            parts.append(session.advance(piece, [0] * count, positions, list(range(count)), 0)[1].clone())
        return torch.cat(parts)

    # ---- inside

    def _engine_for(self, tokens: int) -> Engine:
        """The compiled step, or the model's own forward, traced when that is wished or pays."""
        if self._engine is None:
            assert self._loaded is not None
            traced = self._compile == "always" or (self._compile == "auto" and tokens >= COMPILE_PAYS_AFTER)
            if traced:
                say("[dim]tracing the model's forward: about half a minute before the first token[/]")
            engine = ForwardEngine(self._loaded.model, compiled=traced)
            if not traced and self._compile == "auto":
                return engine  # a longer request may still be worth tracing
            self._engine = engine
        return self._engine

    def _encode(self, prompts: Any, room: int = 1) -> list[list[int]]:
        """Token numbers of each prompt, checked; `room` positions must be left after it."""
        given = [prompts] if isinstance(prompts, str) else list(prompts)
        encoded: list[list[int]] = []
        for number, prompt in enumerate(given):
            where = f"prompt {number + 1} of {len(given)}"
            if isinstance(prompt, str):
                if self.tokenizer is None:
                    raise ConfigError(
                        "a text prompt needs a tokenizer",
                        where=where,
                        needs="tokenizer files beside the model, or the argument tokenizer",
                        found="neither",
                        do="copy the tokenizer into the model's folder, or give token numbers",
                    )
                row = list(self.tokenizer(prompt)["input_ids"])
                if not row and self.tokenizer.bos_token_id is not None:
                    row = [self.tokenizer.bos_token_id]
            else:
                row = [int(token) for token in prompt]
            if not row:
                raise ConfigError("a prompt is empty", where=where, needs="at least one token", do="give some text")
            if self.max_positions is not None and len(row) + room > self.max_positions:
                raise ConfigError(
                    "a prompt is longer than the model can read",
                    where=where,
                    needs=f"at most {self.max_positions - room} tokens: the model has {self.max_positions} positions",
                    found=f"{len(row)} tokens",
                    do="shorten the prompt",
                )
            wrong = next((token for token in row if not 0 <= token < self.vocab_size), None)
            if wrong is not None:
                raise ConfigError(
                    "a prompt has a token outside the model's vocabulary",
                    where=where,
                    needs=f"tokens from 0 to {self.vocab_size - 1}",
                    found=str(wrong),
                    do="use the tokenizer that belongs to the model",
                )
            encoded.append(row)
        if not encoded:
            raise ConfigError("there is nothing to continue", needs="at least one prompt", found="none")
        return encoded

    def _feed(
        self, session: Session, engine: Engine, prompts: Sequence[Sequence[int]], keep: int
    ) -> list[tuple[list[int], torch.Tensor]]:
        """Read the prompts; for each, what follows its last token."""
        results = []
        for slot, prompt in enumerate(prompts):
            for begin in range(0, len(prompt), engine.max_rows):
                piece = prompt[begin : begin + engine.max_rows]
                count = len(piece)
                last = begin + count == len(prompt)
                positions = range(begin, begin + count)
                best, logits = session.advance(piece, [slot] * count, positions, [count - 1] if last else [], keep)
            results.append((best, logits.clone()))
        return results

    def _generate(
        self,
        engine: Engine,
        prompts: list[list[int]],
        first: int,
        config: SamplingConfig,
        stream: Stream | None,
        stop_at_end: bool,
    ) -> list[Generation]:
        """Decode one group of prompts together."""
        started = time.perf_counter()
        limits = [
            config.max_new_tokens
            if self.max_positions is None
            else min(config.max_new_tokens, self.max_positions - len(prompt))
            for prompt in prompts
        ]
        capacity = max(len(prompt) + limit for prompt, limit in zip(prompts, limits, strict=True))
        session = engine.open(len(prompts), capacity)
        writers = [
            _Writer(self.tokenizer, first + slot, len(prompt), limits[slot], self.end_tokens if stop_at_end else ())
            for slot, prompt in enumerate(prompts)
        ]
        randoms = [generator_of(config, writer.number) for writer in writers]

        def take(slot: int, best: int, logits: torch.Tensor) -> None:
            token = best if config.greedy else choose(logits, config, randoms[slot])
            writers[slot].add(token, time.perf_counter() - started, stream)

        for slot, (best, logits) in enumerate(self._feed(session, engine, prompts, config.keep)):
            take(slot, best[0], logits[0])
        while active := [slot for slot, writer in enumerate(writers) if writer.finished is None]:
            best, logits = session.advance(
                [writers[slot].tokens[-1] for slot in active],
                active,
                [writers[slot].position for slot in active],
                range(len(active)),
                config.keep,
            )
            for row, slot in enumerate(active):
                take(slot, best[row], logits[row])
        return [writer.result(stream) for writer in writers]


class _Writer:
    """One growing text."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase | None,
        number: int,
        prompt_tokens: int,
        limit: int,
        end_tokens: Sequence[int],
    ) -> None:
        self.number, self.tokens = number, list[int]()
        self.finished: Literal["end", "length"] | None = None
        self._tokenizer, self._prompt_tokens, self._limit, self._ends = tokenizer, prompt_tokens, limit, set(end_tokens)
        self._times: list[float] = []
        self._shown = 0  # characters
        self._settled, self._settled_text = 0, ""  # tokens that later ones cannot change, and their text

    @property
    def position(self) -> int:
        """Of the last token that was written."""
        return self._prompt_tokens + len(self.tokens) - 1

    def add(self, token: int, seconds: float, stream: Stream | None) -> None:
        self.tokens.append(token)
        self._times.append(seconds)
        if token in self._ends:
            self.finished = "end"
        elif len(self.tokens) >= self._limit:
            self.finished = "length"
        if stream is not None:
            if self._tokenizer is None:
                stream(self.number, f"{token} ")
            else:
                self._show(stream, final=False)

    def _show(self, stream: Stream, *, final: bool) -> None:
        """Hand on the text that is certain: not the start of a character whose bytes are not all there."""
        text = self._text()
        certain = text if final else text.rstrip("\ufffd")
        if len(certain) > self._shown:
            stream(self.number, certain[self._shown :])
            self._shown = len(certain)

    def _text(self) -> str:
        """All text so far. Decoded in stretches, so that a long text does not cost the square of its length."""
        assert self._tokenizer is not None
        tail: str = self._tokenizer.decode(self.tokens[self._settled :], skip_special_tokens=True)
        text = self._settled_text + tail
        if len(self.tokens) - self._settled > 64 and "\ufffd" not in tail:
            whole: str = self._tokenizer.decode(self.tokens, skip_special_tokens=True)
            if whole == text:  # some tokenizers drop a space at the start of what they decode: then nothing settles
                self._settled, self._settled_text = len(self.tokens), text
        return text

    def result(self, stream: Stream | None) -> Generation:
        text = ""
        if self._tokenizer is not None:
            text = self._tokenizer.decode(self.tokens, skip_special_tokens=True)
            if stream is not None:
                self._settled, self._settled_text = 0, ""
                self._show(stream, final=True)
        assert self.finished is not None
        spent = self._times[-1] - self._times[0]
        return Generation(
            text=text,
            tokens=self.tokens,
            finished=self.finished,
            prompt_tokens=self._prompt_tokens,
            first_token_seconds=self._times[0],
            seconds=self._times[-1],
            tokens_per_second=(len(self.tokens) - 1) / spent if spent > 0 else 0.0,
        )


def measure_decode(
    source: str | Path | PreTrainedModel,
    tokens: int = 128,
    *,
    prompt_tokens: int = 16,
    dtype: DType = "auto",
    compile: Compile = "auto",
) -> DecodeSpeed:
    """How fast a folder (or model) is decoded, one sequence, greedy; see `DecodeSpeed`.

    To compare a 4-bit folder with its dense model fairly, give the dense one the dtype "bfloat16" where the processor
    has it (`pomona.ground.machine.has_fast_bfloat16`): that is the best that dense weights can do.
    """
    return Generator.load(source, compile=compile, dtype=dtype, quiet=True).measure(tokens, prompt_tokens)


def generate(
    source: str | Path | PreTrainedModel,
    prompts: str | Sequence[str] | Sequence[Sequence[int]],
    *,
    compile: Compile = "auto",
    dtype: DType = "auto",
    **sampling: Any,
) -> list[Generation]:
    """`Generator.load(source).generate(prompts, ...)` for a single call."""
    return Generator.load(source, compile=compile, dtype=dtype).generate(prompts, **sampling)


def _end_tokens(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """Tokens that end a text: the generation configuration's, else the model's, else the tokenizer's."""
    for source in (getattr(model, "generation_config", None), model.config, tokenizer):
        found = getattr(source, "eos_token_id", None)
        if found is not None:
            return tuple(found) if isinstance(found, list | tuple) else (int(found),)
    return ()


def _max_positions(model: Any) -> int | None:
    """Longest sequence that the model was made for, or None."""
    for name in ("max_position_embeddings", "n_positions"):
        value = getattr(model.config, name, None)
        if isinstance(value, int):
            return value
    return None


def _check_vocabulary(loaded: LoadedModel) -> None:
    """Refuse a tokenizer that makes tokens the model does not have, and a model that cannot be continued."""
    embeddings = loaded.model.get_input_embeddings()
    if loaded.model.get_output_embeddings() is None:
        raise UnsupportedModel(
            f"{type(loaded.model).__name__} cannot write text",
            needs="a causal language model with a head",
            found="no head",
            do="load it with AutoModelForCausalLM",
        )
    rows = int(embeddings.weight.shape[0])
    if loaded.tokenizer is not None and len(loaded.tokenizer) > rows:
        raise ConfigError(
            "tokenizer and model do not belong together",
            needs=f"at most {rows} tokens, the rows of the model's embedding",
            found=f"a tokenizer of {len(loaded.tokenizer)} tokens",
            do="use the tokenizer that the model was trained with",
        )

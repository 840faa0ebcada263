"""What models write after the same prompts, side by side: the most likely text, and one seeded draw."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pomona.examination.loading import load_tokenizer
from pomona.examination.records import Sample
from pomona.ground.errors import ConfigError, DataError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Args:
        temperature: 0 takes the most likely token; above, it is drawn from softmax(logits / temperature).
        seed: of the draw.
    """

    temperature: float = 0.0
    seed: int = 0

    def __str__(self) -> str:
        return f"sampled at temperature {self.temperature:g}, seed {self.seed}" if self.temperature else "greedy"


GREEDY = Sampling()


class Generate(Protocol):
    """Whatever continues a prompt: transformers, a runtime, a server. Returns only what comes after the prompt."""

    def __call__(self, prompt: str, *, max_new_tokens: int, sampling: Sampling) -> str: ...


def continue_prompts(
    models: Mapping[str, Generate],
    prompts: Sequence[str],
    *,
    max_new_tokens: int = 48,
    ways: Sequence[Sampling] = (GREEDY, Sampling(0.8)),
) -> tuple[Sample, ...]:
    """Let every model continue every prompt in every way.

    Args:
        models: name for the reader -> what continues a prompt.
        prompts: each at least one character.
        max_new_tokens: of every continuation.
        ways: how tokens are chosen; a seed is the same for every model and prompt.

    Raises:
        ConfigError: no model, no prompt or an empty one, or a length or temperature out of range.
    """
    if not models or not prompts or not ways:
        raise ConfigError("nothing to write", needs="at least one model, one prompt and one way of sampling")
    if any(not prompt for prompt in prompts):
        raise ConfigError("a prompt is empty", needs="at least one character in every prompt")
    if max_new_tokens < 1 or any(way.temperature < 0 for way in ways):
        raise ConfigError("cannot write like that", needs="max_new_tokens >= 1 and temperature >= 0")
    return tuple(
        Sample(
            prompt,
            {name: write(prompt, max_new_tokens=max_new_tokens, sampling=way) for name, write in models.items()},
            str(way),
        )
        for way in ways
        for prompt in prompts
    )


def prompts_from(texts: Iterable[str], *, count: int = 4, words: int = 12, least: int = 60) -> tuple[str, ...]:
    """The openings of the first `count` held-out texts that are long enough, cut after `words` words.

    Args:
        texts: in a fixed order, such as the documents of the validation split.
        least: words that a text must have, so that there is something to continue.

    Raises:
        DataError: no text is long enough.
    """
    prompts: list[str] = []
    for text in texts:
        if len(text.split()) >= least:
            prompts.append(_opening(text, words))
            if len(prompts) == count:
                break
    if not prompts:
        raise DataError("no held-out text is long enough for a prompt", needs=f"{least} words")
    return tuple(prompts)


def writer(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Generate:
    """A `Generate` over transformers' own `generate`, on the model's device.

    The draw depends on the seed alone: torch's global generator is left as it was found. A prompt that, with what is
    written, would exceed the model's positions loses its beginning.
    """
    import torch
    from transformers import GenerationConfig

    def write(prompt: str, *, max_new_tokens: int, sampling: Sampling) -> str:
        inputs = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
        positions = getattr(model.config, "max_position_embeddings", None)
        ids = inputs["input_ids"]
        if positions is not None and ids.shape[1] + max_new_tokens > positions:
            ids = ids[:, -max(1, positions - max_new_tokens) :]
        ids = ids.to(model.device)
        options = {"do_sample": True, "temperature": sampling.temperature, "top_k": 0} if sampling.temperature else {}
        end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
        config = GenerationConfig(
            max_new_tokens=max_new_tokens, eos_token_id=end, pad_token_id=end if pad is None else pad, **options
        )
        was_training = model.training
        model.eval()
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(sampling.seed)
            try:
                made = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
            finally:
                model.train(was_training)
        return str(tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True))

    return write


def writer_of(folder: Path) -> Generate:
    """`writer` for a model folder, dense or packed."""
    from pomona import anatomy

    return writer(anatomy.load(folder), load_tokenizer(folder))


def _opening(text: str, words: int) -> str:
    """The first `words` words with the white space between them as it was, without the space after the last."""
    at = 0
    for _ in range(words):
        while at < len(text) and text[at].isspace():
            at += 1
        while at < len(text) and not text[at].isspace():
            at += 1
    return text[:at].lstrip()

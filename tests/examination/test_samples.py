"""Continuations: each model, each prompt, each way; draws that depend on the seed alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from pomona.examination.samples import GREEDY, Sampling, continue_prompts, prompts_from, writer, writer_of
from pomona.ground.errors import ConfigError, DataError


def echo(prompt: str, *, max_new_tokens: int, sampling: Sampling) -> str:
    return f"{prompt}|{max_new_tokens}|{sampling}"


def test_every_model_continues_every_prompt_in_every_way() -> None:
    """Catches a table of samples with a hole, or with a continuation under the wrong model."""
    ways = (GREEDY, Sampling(0.5, 3))
    samples = continue_prompts({"a": echo, "b": echo}, ["x", "y"], max_new_tokens=7, ways=ways)
    assert [(sample.prompt, sample.mode) for sample in samples] == [
        ("x", "greedy"),
        ("y", "greedy"),
        ("x", "sampled at temperature 0.5, seed 3"),
        ("y", "sampled at temperature 0.5, seed 3"),
    ]
    assert samples[2].continuations == dict.fromkeys("ab", "x|7|sampled at temperature 0.5, seed 3")


def test_greedy_text_is_the_models_first_guess(tiny: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    """Catches a continuation that repeats the prompt, or is drawn where it should be the most likely one."""
    ids = tokenizer("abc", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        for _ in range(5):
            ids = torch.cat([ids, tiny(ids).logits[:, -1:].argmax(-1)], dim=1)
    new = ids[0, 3:].tolist()
    new = new[: new.index(0)] if 0 in new else new
    text = writer(tiny, tokenizer)("abc", max_new_tokens=5, sampling=GREEDY)
    assert text == tokenizer.decode(new)


def test_a_draw_depends_on_its_seed_alone(tiny: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    """Catches samples that change with what ran before, and generation that changes what runs after."""
    write = writer(tiny, tokenizer)
    texts = []
    for state in (1, 2):
        torch.manual_seed(state)
        expected = torch.rand(3)
        torch.manual_seed(state)
        texts.append(write("abc", max_new_tokens=12, sampling=Sampling(2.0, 5)))
        assert torch.equal(torch.rand(3), expected)
    assert texts[0] == texts[1]
    others = {write("abc", max_new_tokens=12, sampling=Sampling(2.0, seed)) for seed in range(6)}
    assert len(others) > 1


def test_the_models_mode_is_restored(tiny: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    """Catches training that goes on without dropout after a sample was taken."""
    tiny.train()
    writer(tiny, tokenizer)("ab", max_new_tokens=2, sampling=GREEDY)
    assert tiny.training
    tiny.eval()


def test_a_long_prompt_loses_its_beginning(tiny: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    """Catches positions beyond those the model was made for."""
    write = writer(tiny, tokenizer)
    prompt = "abcdefg" * 9
    assert write(prompt, max_new_tokens=4, sampling=GREEDY) == write(prompt[-28:], max_new_tokens=4, sampling=GREEDY)


def test_a_folder_writes_like_its_model(
    folder: Path, tiny: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    """Catches a folder opened with other weights or another tokenizer than were saved."""
    assert writer_of(folder)("ab", max_new_tokens=6, sampling=GREEDY) == writer(tiny, tokenizer)(
        "ab", max_new_tokens=6, sampling=GREEDY
    )


def test_prompts_are_openings_of_long_texts() -> None:
    """Catches prompts with nothing left to continue, and lost indentation or lines."""
    texts = ["too short", "  def f(x):\n    return  x and " + "y " * 80, "a " * 80, "b " * 80]
    assert prompts_from(texts, count=2, words=4) == ("def f(x):\n    return  x", "a a a a")
    with pytest.raises(DataError, match="no held-out text is long enough"):
        prompts_from(["short"])


@pytest.mark.parametrize(
    ("models", "prompts", "tokens", "ways", "message"),
    [
        ({}, ["a"], 1, (GREEDY,), "nothing to write"),
        ({"a": echo}, [], 1, (GREEDY,), "nothing to write"),
        ({"a": echo}, [""], 1, (GREEDY,), "a prompt is empty"),
        ({"a": echo}, ["a"], 0, (GREEDY,), "max_new_tokens >= 1"),
        ({"a": echo}, ["a"], 1, (Sampling(-1.0),), "temperature >= 0"),
        ({"a": echo}, ["a"], 1, (), "nothing to write"),
    ],
)
def test_what_cannot_be_written_is_refused_first(models, prompts, tokens, ways, message) -> None:  # type: ignore[no-untyped-def]
    """Catches an error in the middle of a long list of samples."""
    with pytest.raises(ConfigError, match=message):
        continue_prompts(models, prompts, max_new_tokens=tokens, ways=ways)

"""Generation: the same text as transformers, the same logits as the dequantized weights, and what users see."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from pomona.ground.errors import ConfigError, UnsupportedModel
from pomona.runtime import Generator, generate, measure_decode
from tests.runtime.conftest import VOCABULARY, Quantize, greedy, loud
from tests.tiny import llama

PROMPTS = [[3, 1, 4, 1, 5, 9], [2, 7], [50] * 40]


def test_greedy_text_is_that_of_transformers(tiny_llama: Any, tiny_gpt2: Any, tmp_path: Path) -> None:
    """Catches: any difference of the decoding step, the cache or the positions, over prompts of several lengths."""
    for model in (tiny_llama, tiny_gpt2):
        model.save_pretrained(tmp_path / type(model).__name__)
        generator = Generator.load(tmp_path / type(model).__name__)
        assert generator.engine == "compiled step", generator.notes
        made = generator.generate(PROMPTS, max_new_tokens=20, stop_at_end=False)
        assert [one.tokens for one in made] == [greedy(model, prompt, 20) for prompt in PROMPTS]


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("group_size", [32, None])
def test_logits_of_a_packed_folder(
    quantized: Quantize, tiny_llama: Any, group_size: int | None, symmetric: bool
) -> None:
    """Catches: computing with other weights than those the format means. The compiled step loses almost nothing."""
    folder, rounded = quantized(tiny_llama, 4, group_size, symmetric)
    generator = Generator.load(folder)
    assert generator.engine == "compiled step", generator.notes
    tokens = [5, 9, 33, 2, 71, 8, 90, 90]
    with torch.no_grad():
        expected = rounded(torch.tensor([tokens])).logits[0]
    assert float((generator.logits(tokens) - expected).abs().max()) < 2e-4 * float(expected.std())
    assert generator.generate([tokens], 12, stop_at_end=False)[0].tokens == greedy(rounded, tokens, 12)
    slow = Generator.load(folder, compile="never")
    assert slow.engine == "model's forward"
    # Eight rows are decoded densely; single ones take torch's bfloat16 product.
    assert float((slow.logits(tokens) - expected).abs().max()) < 1e-3 * float(expected.std())
    assert float((slow.logits(tokens[:3]) - expected[:3]).abs().max()) < 0.1 * float(expected.std())


def test_a_packed_folder_in_bfloat16(quantized: Quantize, tiny_llama: Any) -> None:
    """Catches: a check or a step that only works where the dense part is float32."""
    folder, rounded = quantized(tiny_llama.to(torch.bfloat16))
    generator = Generator.load(folder)
    assert generator.engine == "compiled step", generator.notes
    tokens = [5, 9, 33, 2, 71, 8, 90, 90]
    with torch.no_grad():
        expected = rounded.float()(torch.tensor([tokens])).logits[0]
    # Keys and values are kept in bfloat16, everything else is computed in float32.
    assert float((generator.logits(tokens) - expected).abs().max()) < 0.05 * float(expected.std())
    slow = Generator.load(folder, compile="never")
    assert float((slow.logits(tokens[:4]) - expected[:4]).abs().max()) < 0.2 * float(expected.std())


def test_every_prompt_writes_as_if_alone(tiny_llama: Any) -> None:
    """Catches: a batch, a group of slots or a shared random stream that changes the text of a prompt."""
    generator = Generator.load(tiny_llama)
    prompts = [[number, 1 + number % 7, 3] * (1 + number % 3) for number in range(20)]  # more than one group
    for settings in ({}, {"temperature": 0.9}, {"temperature": 0.9, "top_k": 9}, {"temperature": 2.0, "top_p": 0.8}):
        together = generator.generate(prompts, 10, **settings, stop_at_end=False)
        first = generator.generate(prompts[:1], 10, **settings, stop_at_end=False)
        assert first[0].tokens == together[0].tokens
        assert together == together and [one.tokens for one in together] == [
            one.tokens for one in generator.generate(prompts, 10, **settings, stop_at_end=False)
        ]
    other = generator.generate(prompts, 10, temperature=0.9, seed=1, stop_at_end=False)
    assert [one.tokens for one in other] != [one.tokens for one in together]


def test_the_forward_and_the_step_sample_alike(tiny_llama: Any) -> None:
    """Catches: top-k from logits that the screen has changed."""
    fast, slow = Generator.load(tiny_llama), Generator.load(tiny_llama, compile="never")
    for settings in ({"temperature": 1.0, "top_k": 5}, {"temperature": 1.0}):
        ours = [one.tokens for one in fast.generate(PROMPTS, 12, **settings, stop_at_end=False)]
        assert ours == [one.tokens for one in slow.generate(PROMPTS, 12, **settings, stop_at_end=False)]


def test_the_end_token_ends_a_text(tiny_llama: Any) -> None:
    """Catches: writing on after the end, or one finished prompt that stops the others."""
    generator = Generator.load(tiny_llama)
    free = generator.generate(PROMPTS, 20, stop_at_end=False)
    end = free[0].tokens[4]
    tiny_llama.generation_config.eos_token_id = [end, VOCABULARY - 1]
    made = Generator.load(tiny_llama).generate(PROMPTS, 20)
    for one, whole in zip(made, free, strict=True):
        stop = next((i for i, t in enumerate(whole.tokens) if t in (end, VOCABULARY - 1)), None)
        assert one.tokens == (whole.tokens if stop is None else whole.tokens[: stop + 1])
        assert one.finished == ("length" if stop is None else "end")
    assert made[0].finished == "end"


def test_text_that_streams(tokenizer: PreTrainedTokenizerFast) -> None:
    """Catches: half characters on the screen, lost or doubled pieces, a mixed-up order of prompts."""
    model = loud(llama(vocab_size=len(tokenizer), max_position_embeddings=512), seed=4)
    generator = Generator.load(model, tokenizer=tokenizer)
    pieces: dict[int, str] = defaultdict(str)
    count = 0

    def show(number: int, text: str) -> None:
        nonlocal count
        pieces[number] += text
        count += 1

    # Hot sampling over bytes: broken characters everywhere.
    made = generator.generate(["the model", "a téxt"], 150, temperature=5.0, stream=show, stop_at_end=False)
    assert [one.text for one in made] == [pieces[0], pieces[1]]
    assert count > 50
    assert made[0].text == tokenizer.decode(made[0].tokens, skip_special_tokens=True)
    euro = tokenizer("€")["input_ids"]
    assert len(euro) == 3

    from pomona.runtime.decode import _Writer

    seen: list[str] = []
    writer = _Writer(tokenizer, 0, 1, 3, ())
    for token in euro:
        writer.add(token, 0.0, lambda number, text: seen.append(text))
    assert seen == ["€"]


def test_a_text_stops_at_the_models_positions(tiny_llama: Any) -> None:
    """Catches: reading positions that the model does not have."""
    made = Generator.load(tiny_llama).generate([[1] * 60], 50, stop_at_end=False)
    assert len(made[0].tokens) == 4 and made[0].finished == "length"


def test_bad_prompts(tiny_llama: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    """Catches: errors from inside the step, or none at all (a wrong token would read foreign memory)."""
    generator = Generator.load(tiny_llama)
    for prompts, named in (
        ([[1] * 64], "64 positions"),
        ([[1], [VOCABULARY]], "prompt 2 of 2"),
        ([[-1]], "vocabulary"),
        ([[]], "empty"),
        ([], "nothing to continue"),
        ("text", "tokenizer"),
    ):
        with pytest.raises(ConfigError, match=named):
            generator.generate(prompts)
    with pytest.raises(ConfigError, match="top_p"):
        generator.generate([[1]], top_p=2.0)
    with pytest.raises(ConfigError, match="do not belong together"):
        Generator.load(tiny_llama, tokenizer=tokenizer)
    with pytest.raises(UnsupportedModel, match="head"):
        Generator.load(tiny_llama.model)


def test_an_empty_text_begins_with_the_first_token(tokenizer: PreTrainedTokenizerFast) -> None:
    """Catches: refusing to write from nothing."""
    model = loud(llama(vocab_size=len(tokenizer)))
    [made] = (
        generate(model, "", max_new_tokens=3) if False else Generator.load(model, tokenizer=tokenizer).generate("", 3)
    )
    assert made.prompt_tokens == 1


def test_what_does_not_fit_falls_back_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches: a crash, or silence, for a model that only its own forward can compute."""
    from transformers import PhiConfig, PhiForCausalLM

    torch.manual_seed(0)
    config = PhiConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, vocab_size=VOCABULARY
    )
    model = loud(PhiForCausalLM(config))
    generator = Generator.load(model, quiet=True)
    assert generator.engine == "model's forward"
    assert "cannot run on PhiForCausalLM" in generator.notes[0]
    made = generator.generate(PROMPTS[:2], 6, stop_at_end=False)
    assert [one.tokens for one in made] == [greedy(model, prompt, 6) for prompt in PROMPTS[:2]]


def test_speed_is_measured(quantized: Quantize, tiny_llama: Any, tmp_path: Path) -> None:
    """Catches: a speed without its facts; bytes that count a tied weight twice or packed weights as dense."""
    folder, _ = quantized(tiny_llama)
    packed = measure_decode(folder, 24, prompt_tokens=4)
    assert packed.tokens_per_second > 0 and packed.first_token_seconds > 0
    assert packed.scheme == "4-bit, groups of 32" and packed.engine == "compiled step"
    tiny_llama.save_pretrained(tmp_path / "dense")
    dense = measure_decode(tmp_path / "dense", 24, prompt_tokens=4)
    assert dense.weight_bytes == sum(p.numel() * 4 for p in tiny_llama.parameters())
    assert packed.weight_bytes < dense.weight_bytes and packed.bytes_per_token < dense.bytes_per_token
    with pytest.raises(ConfigError, match="so few tokens"):
        measure_decode(tmp_path / "dense", 24, prompt_tokens=64)


@pytest.mark.slow
def test_the_traced_forward_writes_the_same(quantized: Quantize) -> None:
    """Catches: a frozen graph that keeps the cache or the positions of its first step."""
    from transformers import PhiConfig, PhiForCausalLM

    torch.manual_seed(0)
    config = PhiConfig(
        hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, vocab_size=VOCABULARY
    )
    model = loud(PhiForCausalLM(config))
    generator = Generator.load(model, compile="always", quiet=True)
    for _ in range(2):
        made = generator.generate(PROMPTS, 12, stop_at_end=False)
        assert [one.tokens for one in made] == [greedy(model, prompt, 12) for prompt in PROMPTS]
    assert "compiled and frozen" in generator.engine

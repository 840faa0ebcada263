"""The function that merges: every kind of parent, the mismatches that it names, and what it does with odd tensors."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from pomona import anatomy
from pomona.anatomy.tiny import tiny_model
from pomona.ground.errors import ConfigError, DataError, UnsupportedModel
from pomona.merging import TaskArithmeticConfig, merge
from tests.merging.models import base_of, equal, expert_of, state_of


def test_models_anatomies_and_state_dicts_agree() -> None:
    """Catches three ways in that lead to different weights, or give back another kind of thing."""
    base = base_of("llama")
    experts = [expert_of(base, seed) for seed in (0, 1)]
    as_states = merge(base.state_dict(), [expert.state_dict() for expert in experts], "ties", density=0.5)
    as_models = merge(base, experts, "ties", density=0.5)
    as_bodies = merge(anatomy.of(base), [anatomy.of(expert) for expert in experts], "ties", density=0.5)
    assert type(as_models) is type(base) and isinstance(as_bodies, anatomy.Anatomy)
    assert equal(state_of(as_models), as_states) and equal(state_of(as_bodies.model), as_states)


def test_ties_of_a_state_dict_are_one_tensor() -> None:
    """Catches tied weights that are merged twice (so that a random method unties them) or stored twice."""
    base = base_of("llama").state_dict()
    expert = expert_of(base_of("llama"), 0).state_dict()
    merged = merge(base, [expert], "dare", drop_rate=0.5)
    assert merged["lm_head.weight"].data_ptr() == merged["model.embed_tokens.weight"].data_ptr()
    expert = {**expert, "lm_head.weight": expert["lm_head.weight"] + 1}
    with pytest.raises(UnsupportedModel, match=r"expert 1: lm_head.weight differs from model.embed_tokens.weight"):
        merge(base, [expert], "linear")


def test_methods_are_found_by_name() -> None:
    """Catches a slug that leads nowhere, `_` and `-` being different, and a wrong parameter without its near ones."""
    states = [{"w": torch.tensor([0.0])}, {"w": torch.tensor([1.0])}]
    assert merge(states[0], states[1:], "task_arithmetic", scale=0.5)["w"] == 0.5
    assert merge(states[0], states[1:], TaskArithmeticConfig(scale=0.5))["w"] == 0.5
    with pytest.raises(ConfigError, match="did you mean 'breadcrumbs'"):
        merge(states[0], states[1:], "breadcrum")
    with pytest.raises(ConfigError, match="did you mean 'density'"):
        merge(states[0], states[1:], "ties", densty=0.1)


@pytest.mark.parametrize(
    ("method", "experts", "parameters", "message"),
    [
        ("slerp", 2, {}, "slerp cannot merge 2 experts"),
        ("model-stock", 1, {}, "needs: at least 2"),
        ("linear", 0, {}, "linear cannot merge 0 experts"),
        ("linear", 2, {"weights": (1.0,)}, "2 numbers, one for each expert"),
        ("linear", 2, {"weights": (1.0, 0.0)}, "leave out an expert"),
        ("ties", 2, {"weights": (1.0, -1.0)}, "leave out an expert"),
        ("task-arithmetic", 2, {"weights": (1.0, 0.0)}, "leave out an expert"),
        ("task-arithmetic", 2, {"weights": (1.0, -1.0, 1.0)}, "2 numbers, one for each expert"),
        ("breadcrumbs", 2, {"density": 0.95, "outliers": 0.1}, "more than all entries"),
        ("ties", 2, {"density": 0.0}, "greater than 0"),
        ("dare", 2, {"drop_rate": 1.0}, "less than 1"),
    ],
)
def test_parameters_that_do_not_fit(method: str, experts: int, parameters: dict[str, Any], message: str) -> None:
    """Catches a merge that starts with too many or too few experts, or with shares that make no sense."""
    states = [{"w": torch.zeros(2)} for _ in range(experts + 1)]
    with pytest.raises(ConfigError, match=message):
        merge(states[0], states[1:], method, **parameters)


def test_differences_of_anatomies_are_named() -> None:
    """Catches models that do not match being merged, or refused without the module and both sizes."""
    base = tiny_model("llama")
    others = {
        r"expert 1: model.layers.0.mlp.gate_proj.weight and 8 more with feed_forward 64, in the base 48": tiny_model(
            "llama", intermediate_size=64
        ),
        r"expert 1: model.embed_tokens.weight .*with vocabulary 100, in the base 96": tiny_model(
            "llama", vocab_size=100
        ),
        r"expert 1: has 2 blocks, the base 3": tiny_model("llama", num_hidden_layers=2),
        r"with head 2, in the base 4": tiny_model("llama", num_attention_heads=2, num_key_value_heads=2),
        r"expert 1: is a GPT2LMHeadModel, the base a LlamaForCausalLM": tiny_model("gpt2"),
        r"rms_norm_eps is 0.1, in the base 1e-06": tiny_model("llama", rms_norm_eps=0.1),
        r"tie_word_embeddings is False, in the base True": tiny_model("llama", tie_word_embeddings=False),
    }
    for message, other in others.items():
        with pytest.raises(UnsupportedModel, match=message):
            merge(base, [other])


def test_settings_that_change_nothing_do_not_matter() -> None:
    """Catches experts refused because of dropout, token ids or a dtype in their configuration."""
    base = base_of("llama")
    expert = expert_of(base, 0)
    expert.config.attention_dropout, expert.config.eos_token_id, expert.config.use_cache = 0.3, 5, False
    assert equal(state_of(merge(base, [expert])), state_of(expert))


def test_differences_of_state_dicts_are_named() -> None:
    """Catches tensors that are skipped, cut or broadcast because another parent has them otherwise."""
    base = {"a": torch.zeros(2, 3), "b": torch.zeros(1)}
    other = {"a": torch.zeros(3, 2), "c": torch.zeros(1)}
    with pytest.raises(UnsupportedModel) as caught:
        merge(base, [base, other])
    for line in ("expert 2: b is missing", "expert 2: c is not in the base", "a is 3 x 2, in the base 2 x 3"):
        assert line in str(caught.value)
    assert "expert 1" not in str(caught.value)


def test_other_numbers_than_weights() -> None:
    """Catches integers that are averaged, and NaN that spreads without a name."""
    base = {"ids": torch.arange(3), "w": torch.zeros(2)}
    merged = merge(base, [{"ids": torch.arange(3), "w": torch.ones(2)}])
    assert torch.equal(merged["ids"], base["ids"]) and merged["ids"].data_ptr() != base["ids"].data_ptr()
    with pytest.raises(DataError, match="ids of expert 1 differs from the base"):
        merge(base, [{"ids": torch.arange(3) + 1, "w": torch.ones(2)}])
    bad = {"ids": torch.arange(3), "w": torch.tensor([1.0, float("nan")])}
    with pytest.raises(DataError, match="w of expert 2 holds numbers that are not finite"):
        merge(base, [{"ids": torch.arange(3), "w": torch.ones(2)}, bad])
    with pytest.raises(DataError, match="too large for its dtype"):
        merge({"w": torch.ones(1).half()}, [{"w": torch.full((1,), 6e4).half()}], "task-arithmetic", scale=2.0)


def test_a_deep_copy_with_the_head_untied_is_not_mistaken() -> None:
    """Catches ties that are looked for by value: equal tensors of different storage are merged on their own."""
    base = {"a": torch.zeros(2), "b": torch.zeros(2)}
    expert = {"a": torch.ones(2), "b": torch.full((2,), 2.0)}
    merged = merge(base, [copy.deepcopy(expert)])
    assert equal(merged, expert)

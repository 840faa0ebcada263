"""Descriptions of models become configurations of transformers."""

from __future__ import annotations

import pytest

from pomona.ground.errors import ConfigError
from pomona.stages.models import config_from


def test_special_tokens_lie_within_the_vocabulary(caplog: pytest.LogCaptureFixture) -> None:
    """Catches a small GPT-2 that starts from a token of the published model's vocabulary, with a warning each time."""
    small = config_from({"shape": "gpt2", "n_embd": 32, "n_head": 2}, vocab_size=300)
    assert (small.vocab_size, small.bos_token_id, small.eos_token_id) == (300, None, None)
    assert config_from({"shape": "gpt2", "vocab_size": 50257}).eos_token_id == 50256
    assert config_from({"shape": "gpt2", "vocab_size": 300, "eos_token_id": 7}).eos_token_id == 7
    assert config_from({"shape": "llama"}, vocab_size=300).eos_token_id == 2
    encoder = config_from({"shape": "modernbert", "hidden_size": 32}, vocab_size=300)
    assert (encoder.cls_token_id, encoder.sep_token_id) == (None, None)
    assert not caplog.records


def test_wrong_descriptions() -> None:
    """Catches an unknown field that transformers would take without a word."""
    with pytest.raises(ConfigError, match="gpt2 has no field 'hiden_size'"):
        config_from({"shape": "gpt2", "hiden_size": 32})
    with pytest.raises(ConfigError, match="needs a shape"):
        config_from({"hidden_size": 32})

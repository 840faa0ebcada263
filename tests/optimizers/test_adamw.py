"""AdamW is torch's, with decay and rates where they belong."""

from __future__ import annotations

import torch

from pomona import anatomy
from pomona.optimizers import AdamwConfig
from tests.tiny import bert, llama


def test_equals_torch() -> None:
    """Catches betas, epsilon or decay that do not arrive: fused and plain torch.optim.AdamW give the same weights."""
    ours, theirs = anatomy.of(llama()), anatomy.of(llama())
    config = AdamwConfig(learning_rate=3e-3, beta1=0.8, beta2=0.9, eps=1e-5, weight_decay=0.3)
    decayed = [p for p in theirs.model.parameters() if p.ndim > 1]
    plain = [p for p in theirs.model.parameters() if p.ndim < 2]
    settings = {"lr": 3e-3, "betas": (0.8, 0.9), "eps": 1e-5, "foreach": False}
    groups = [{"params": decayed, "weight_decay": 0.3}, {"params": plain, "weight_decay": 0.0}]
    optimizers = [config.build(ours, total_steps=9), torch.optim.AdamW(groups, **settings)]
    for step in range(5):
        for body, optimizer in zip((ours, theirs), optimizers, strict=True):
            generator = torch.Generator().manual_seed(step)
            for parameter in body.model.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=generator)
            optimizer.step()
    for a, b in zip(ours.model.parameters(), theirs.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_rates_of_embedding_and_head() -> None:
    """Catches a rate for the head that reaches a tied head twice, or one for tables that misses BERT's other tables."""
    config = AdamwConfig(learning_rate=1e-3, embedding_learning_rate=2e-3, head_learning_rate=4e-3)

    def rates(body: anatomy.Anatomy) -> dict[str, float]:
        names = {id(parameter): name for name, parameter in body.model.named_parameters()}
        groups = config.build(body, total_steps=9).param_groups
        return {names[id(parameter)]: group["lr"] for group in groups for parameter in group["params"]}

    tied, untied, encoder = (rates(anatomy.of(m)) for m in (llama(), llama(tie_word_embeddings=False), bert()))
    assert tied["model.embed_tokens.weight"] == 2e-3 and "lm_head.weight" not in tied
    assert untied["lm_head.weight"] == 4e-3 and untied["model.norm.weight"] == 1e-3
    assert encoder["bert.embeddings.token_type_embeddings.weight"] == 2e-3
    assert encoder["cls.predictions.transform.dense.weight"] == 4e-3
    assert encoder["bert.encoder.layer.0.output.dense.weight"] == 1e-3

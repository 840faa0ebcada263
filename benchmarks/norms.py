"""What other norms buy: one GPT-2-shaped model with LayerNorms, with RMSNorms, and with a stream one feature narrower.

All three compute the same (`pre-crmsnorm` checks it when it converts). Held equal: weights, tokens, threads, and the
forward of transformers. A fourth contender computes LayerNorm as the paper's baseline does, operation by operation,
because torch's own is one fused kernel. Inference in float32; one case trains, forwards and backwards.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.harness import (
    ROOT,
    Contender,
    Goal,
    Quiet,
    Spread,
    interleave,
    main,
    ratios,
    save,
    show_goals,
    table,
)
from benchmarks.meter import Meter

FORMS = {
    "LayerNorm": "layer",
    "LayerNorm, not fused": "written out",
    "Pre-RMSNorm": "rms",
    "Pre-CRMSNorm": "crms",
}
CASES = [(hidden, batch, False) for hidden in (128, 256, 512) for batch in (1, 16)] + [(256, 16, True)]
"""Hidden features, sequences of `TOKENS`, whether gradients are computed."""
TOKENS, BLOCKS, VOCABULARY = 64, 6, 1024


def passes(meter: Meter, *, form: str, hidden: int, batch: int, training: bool) -> None:
    """Pass after pass of a model in one form; a tick each."""
    import torch
    from torch import nn
    from transformers import GPT2Config, GPT2LMHeadModel

    from pomona.conversion import PreCrmsnormConfig, pre_crmsnorm_

    torch.manual_seed(0)
    sizes = {"n_embd": hidden, "n_layer": BLOCKS, "n_head": hidden // 32, "n_positions": TOKENS}
    dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, **sizes, **dropout)).eval()
    if form in ("rms", "crms"):
        pre_crmsnorm_(model, PreCrmsnormConfig.model_validate({"form": form}))
    elif form == "written out":
        for module in model.modules():
            if isinstance(module, nn.LayerNorm):
                module.__class__ = written_out()
    ids = torch.randint(VOCABULARY, (batch, TOKENS), generator=torch.Generator().manual_seed(1))
    while True:
        with torch.set_grad_enabled(training):
            logits = model(ids, use_cache=False, logits_to_keep=0 if training else 1).logits
            if training:
                model.zero_grad()
                logits.square().mean().backward()
        meter.tick()


def written_out() -> type:
    """LayerNorm in single operations."""
    from torch import Tensor, nn

    class WrittenOut(nn.LayerNorm):
        def forward(self, x: Tensor) -> Tensor:
            x = x - x.mean(-1, keepdim=True)
            return x * (x.square().mean(-1, keepdim=True) + self.eps).rsqrt() * self.weight + self.bias

    return WrittenOut


def run(*, quick: bool = False) -> None:
    """Measure and print."""
    cases = [CASES[0]] if quick else CASES
    protocol = {"rounds": 3 if quick else 9, "ticks_per_round": 5 if quick else 12, "warmup_ticks": 10}
    seconds: dict[str, dict[str, list[float]]] = {}
    with Quiet() as quiet:
        for hidden, batch, training in cases:
            case = f"d = {hidden}, {batch} x {TOKENS}{', training' if training else ''}"
            options = {"hidden": hidden, "batch": batch, "training": training}
            contenders = [
                Contender(name, "benchmarks.norms:passes", {"form": form, **options}) for name, form in FORMS.items()
            ]
            rounds = interleave(contenders, **protocol)
            seconds[case] = {
                name: [event["seconds"] / event["ticks"] for event in events] for name, events in rounds.items()
            }
    rows, goals = [], []
    for case, found in seconds.items():
        for name, values in found.items():
            speed = ratios(found["LayerNorm"], values).show(".3f", "x")
            unfused = ratios(found["LayerNorm, not fused"], values).show(".3f", "x")
            rows.append((case, name, Spread.of(values).scaled(1e3).show(".2f", " ms"), speed, unfused))
        for name in ("Pre-RMSNorm", "Pre-CRMSNorm"):
            ratio = ratios(found["LayerNorm, not fused"], found[name]).median
            goals.append(Goal(f"{name}, {case}, against LayerNorm not fused", ratio, 1.0))
    table(
        f"a pass of {BLOCKS} blocks",
        ["", "", "time", "against LayerNorm", "against not fused"],
        rows,
        f"median (range) of {protocol['rounds']} rounds of {protocol['ticks_per_round']} passes; above 1x is faster",
        texts=2,
    )
    show_goals(goals)
    save(
        "norms",
        config={**protocol, "cases": [list(case) for case in cases], "tokens": TOKENS, "blocks": BLOCKS},
        measured={"seconds": seconds, "machine_use": quiet.facts()},
        goals=goals,
        code=[Path(__file__), ROOT / "pomona/conversion/pre_crmsnorm.py", ROOT / "pomona/anatomy/norms.py"],
        quick=quick,
    )


if __name__ == "__main__":
    main(run, __doc__)

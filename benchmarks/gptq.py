"""GPTQ: the solver against a textbook implementation, a whole model against llm-compressor.

llm-compressor needs an environment of its own. Name its interpreter with `--python` or LLM_COMPRESSOR_PYTHON; without
one the comparison is left out and the table says "not installed".
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.harness import (
    ROOT,
    WORK,
    Contender,
    Goal,
    Quiet,
    Spread,
    interleave,
    ratios,
    run_fresh,
    save,
    show_goals,
    table,
)
from benchmarks.meter import Meter

if TYPE_CHECKING:
    from torch import Tensor

PEER = ROOT / "benchmarks" / "peers" / "llm_compressor.py"
BITS, GROUP = 4, 128
MODEL_GROUP = 32
"""Columns per group of the whole model: llm-compressor needs a divisor of all widths, and 1376 = 32 * 43."""


# ---------------------------------------------------------------- contenders, each in a process of its own


def layer(size: int) -> tuple[Tensor, Tensor]:
    """A weight, and the Hessian of correlated inputs of unequal size."""
    import torch

    torch.manual_seed(0)
    spectrum = torch.arange(1, size + 1) ** -0.5
    inputs = (torch.randn(2 * size, size) * spectrum) @ (torch.randn(size, size) / size**0.5)
    inputs = inputs * (0.5 * torch.randn(size)).exp() + 0.1 * torch.randn(2 * size, size)
    return 0.02 * torch.randn(size, size), inputs.T @ inputs / size


def solve(meter: Meter, *, size: int, textbook: bool) -> None:
    """One solve per tick: everything from weight and Hessian to dequantized weights, factorizations included."""
    from benchmarks.references.gptq_textbook import gptq_textbook
    from pomona.ground.machine import keep_freed_memory
    from pomona.quantization import Grid, gptq_solve

    keep_freed_memory()  # for both: it is a property of the process, not of a solver
    weight, hessian = layer(size)
    while True:
        if textbook:
            gptq_textbook(weight, hessian, bits=BITS, group_size=GROUP)
        else:
            gptq_solve(weight, hessian, Grid(BITS, GROUP)).weight.dequantize()
        meter.tick()


def quantize(meter: Meter, *, model: str, calibration: str, out: str) -> None:
    """pomona on a model folder; the seconds are those of `apply_` alone."""
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForCausalLM

    from pomona.quantization import GptqConfig

    loaded = AutoModelForCausalLM.from_pretrained(model)
    batches = [{"input_ids": rows} for rows in load_file(calibration)["input_ids"].split(8)]
    begin = time.perf_counter()
    report = GptqConfig(bits=BITS, group_size=MODEL_GROUP, symmetric=True, clip_search=True).apply_(loaded, batches)
    seconds = time.perf_counter() - begin
    save_file({entry.name: loaded.get_parameter(entry.name).detach() for entry in report.weights}, out)
    meter.report("quantized", took=seconds, kept_rtn=report.kept_rtn)


# ---------------------------------------------------------------- the parent's side


def prepare(folder: Path, *, quick: bool) -> tuple[Path, Path, Path]:
    """A random Llama and random tokens to calibrate on and to judge on."""
    import torch
    from safetensors.torch import save_file
    from transformers import LlamaConfig, LlamaForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    hidden, intermediate, blocks, sequences, length = (64, 160, 2, 8, 32) if quick else (512, 1376, 4, 128, 256)
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=hidden,
        num_hidden_layers=blocks,
        num_attention_heads=8,
        num_key_value_heads=8,
        intermediate_size=intermediate,
        vocab_size=4096,
        max_position_embeddings=length,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    files = []
    for name, count in (("calibration", sequences), ("held_out", max(2, sequences // 8))):
        files.append(folder / f"{name}.safetensors")
        save_file({"input_ids": torch.randint(0, 4096, (count, length))}, files[-1])
    return folder / "model", files[0], files[1]


def judge(model: Path, calibration: Path, held_out: Path, outs: Sequence[Path]) -> list[tuple[float, float]]:
    """For every set of weights: the layers' output error on the original model's inputs, and the error of logits."""
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    from pomona import anatomy
    from pomona.anatomy.taps import tap_inputs
    from pomona.quantization.hessian import RunningHessian, weighted_error

    original = AutoModelForCausalLM.from_pretrained(model).eval()
    weights = anatomy.of(original).weights()
    hessians = {weight.name: RunningHessian(weight.shape[1]) for weight in weights}
    tokens, unseen = load_file(calibration)["input_ids"], load_file(held_out)["input_ids"]
    results = []
    with torch.no_grad():
        for rows in tokens.split(8)[:4]:
            for weight in weights:
                with tap_inputs(weight, hessians[weight.name].add):
                    original(input_ids=rows)
        expected = original(input_ids=unseen).logits
        before = {weight.name: weight.read().clone() for weight in weights}
        for out in outs:
            values = load_file(out)
            layers = 0.0
            for weight in weights:
                deviation = (before[weight.name] - values[weight.name]).double()
                layers += weighted_error(deviation, hessians[weight.name].value().double())
                weight.write_(values[weight.name])
            results.append((layers, (original(input_ids=unseen).logits - expected).square().mean().item()))
    return results


def compare_solvers(quick: bool) -> tuple[dict[str, Any], list[Goal], list[tuple[str, ...]]]:
    """The solver next to the textbook, interleaved."""
    size = 256 if quick else 4096
    contenders = [
        Contender(name, "benchmarks.gptq:solve", {"size": size, "textbook": name == "textbook"})
        for name in ("pomona", "textbook")
    ]
    rounds = interleave(contenders, rounds=2 if quick else 5, ticks_per_round=1, warmup_ticks=1)
    seconds = {name: [each["seconds"] for each in runs] for name, runs in rounds.items()}
    errors = solver_errors(size)
    speed, ours = ratios(seconds["textbook"], seconds["pomona"]), Spread.of(seconds["pomona"])
    goals = [
        Goal("solver against the textbook", speed.median, 3),
        Goal(f"one {size} x {size} weight, factorization included", ours.median, 1.05, at_least=False, unit="s"),
        Goal("solver's error over the textbook's", errors["pomona"] / errors["textbook"], 1.005, at_least=False),
    ]
    rows = [(name, Spread.of(seconds[name]).show(".2f", " s"), f"{errors[name]:.5g}") for name in seconds]
    return {"seconds": seconds, "errors": errors, "size": size}, goals, rows


def solver_errors(size: int) -> dict[str, float]:
    """The objective that each solver reaches, computed alike in float64."""
    from benchmarks.references.gptq_textbook import gptq_textbook
    from pomona.quantization import Grid, gptq_solve
    from pomona.quantization.hessian import weighted_error

    weight, hessian = layer(size)
    values = {
        "pomona": gptq_solve(weight, hessian, Grid(BITS, GROUP)).weight.dequantize(),
        "textbook": gptq_textbook(weight, hessian, bits=BITS, group_size=GROUP),
    }
    return {name: weighted_error((weight - each).double(), hessian.double()) for name, each in values.items()}


def compare_models(quick: bool, python: str | None) -> tuple[dict[str, Any], list[Goal], list[tuple[str, ...]]]:
    """A whole model, in turns: pomona, llm-compressor, llm-compressor, pomona, ..."""
    folder = WORK / "gptq"
    model, calibration, held_out = prepare(folder, quick=quick)
    outs = {name: folder / f"{name}.safetensors" for name in ("pomona", "llm-compressor")}
    seconds: dict[str, list[float]] = {"pomona": [], **({"llm-compressor": []} if python else {})}
    peer_versions: dict[str, str] = {}
    options = {"model": str(model), "calibration": str(calibration), "out": str(outs["pomona"])}
    for number in range(1 if quick else 3):
        for name in list(seconds) if number % 2 == 0 else reversed(list(seconds)):
            if name == "pomona":
                events = run_fresh(Contender(name, "benchmarks.gptq:quantize", options))
                seconds[name].append(next(event["took"] for event in events if event["event"] == "quantized"))
            else:
                result = subprocess.run(
                    [str(python), str(PEER), str(model), str(calibration), str(outs[name]), str(MODEL_GROUP)],
                    capture_output=True,
                    text=True,
                    cwd=folder,
                    check=False,
                )
                if result.returncode:
                    raise SystemExit(f"llm-compressor failed:\n{result.stderr[-4000:]}")
                said = json.loads(result.stdout.splitlines()[-1])
                seconds[name].append(said["seconds"])
                peer_versions = said["versions"]
    judged = dict(zip(seconds, judge(model, calibration, held_out, [outs[name] for name in seconds]), strict=True))
    rows = [
        (name, Spread.of(seconds[name]).show(".2f", " s"), f"{judged[name][0]:.5g}", f"{judged[name][1]:.5g}")
        for name in seconds
    ]
    goals = [Goal("whole model", Spread.of(seconds["pomona"]).median, 6, at_least=False, unit="s")]
    if python:
        ours, theirs = judged["pomona"], judged["llm-compressor"]
        goals += [
            Goal("whole model against llm-compressor", ratios(seconds["llm-compressor"], seconds["pomona"]).median, 3),
            Goal("layers' output error over llm-compressor's", ours[0] / theirs[0], 1, at_least=False),
            Goal("error of logits over llm-compressor's", ours[1] / theirs[1], 1, at_least=False),
        ]
    else:
        rows.append(("llm-compressor", "not installed", "", ""))
    return {"seconds": seconds, "judged": judged, "peer_versions": peer_versions}, goals, rows


def run(*, quick: bool = False, python: str | None = None) -> None:
    """Measure and print."""
    python = python or os.environ.get("LLM_COMPRESSOR_PYTHON")
    with Quiet() as quiet:
        solvers, goals, rows = compare_solvers(quick)
        size = solvers["size"]
        table(f"one {size} x {size} weight, {BITS} bits, groups of {GROUP}", ["", "seconds", "error"], rows)
        models, more, rows = compare_models(quick, python)
    table(f"a whole Llama, {BITS} bits, groups of {MODEL_GROUP}", ["", "seconds", "layers", "logits"], rows)
    goals += more
    show_goals(goals)
    sources = ["benchmarks/gptq.py", "benchmarks/peers/llm_compressor.py", "benchmarks/references/gptq_textbook.py"]
    room = sorted((ROOT / "pomona" / "quantization").glob("*.py"))
    save(
        "gptq",
        config={"bits": BITS, "group_size": GROUP, "model_group_size": MODEL_GROUP, "size": size},
        measured={"solver": solvers, "model": models, "machine_use": quiet.facts()},
        goals=goals,
        code=[*(ROOT / name for name in sources), *room],
        quick=quick,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small and short: shows that it works, proves nothing")
    parser.add_argument("--python", help="interpreter of an environment with llm-compressor")
    chosen = parser.parse_args()
    run(quick=chosen.quick, python=chosen.python)

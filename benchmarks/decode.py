"""Writing one sequence on the CPU: a 110 M-parameter Llama, batch of one, greedy, 4 bits in groups of 128.

Held equal: architecture, prompt, length of the context, threads. Weights are random: nothing here depends on the text.
A token is a step as its caller gets it: the number of the next token, in Python.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.harness import (
    ROOT,
    WORK,
    Contender,
    Goal,
    Quiet,
    Spread,
    interleave,
    main,
    ratios,
    run_fresh,
    save,
    show_goals,
    table,
)
from benchmarks.meter import Meter
from benchmarks.peers import decoding
from benchmarks.shapes import Shape, make_model
from pomona.ground.files import atomic_folder

LLAMA_110M = Shape(768, 12, 12, 2048, 32000, 2048, 1)
SMALL = Shape(256, 4, 4, 512, 4096, 512, 1)
PROMPT, CONTEXT = 16, 256
PEER = "benchmarks.peers.decoding:write"


def prepare(shape: Shape) -> Path:
    """A folder with the model `dense` (float32) and `packed` (4 bits, rounded to nearest), made once."""
    folder = WORK / "decode" / f"{shape.hidden_size}x{shape.blocks}x{shape.vocab_size}"
    if not folder.exists():
        import torch

        from pomona.quantization import RoundToNearestConfig, quantize_rtn_, save_compressed

        with atomic_folder(folder) as part:
            model = make_model(shape)
            model.save_pretrained(part / "dense")
            model = model.to(torch.bfloat16)
            report = quantize_rtn_(model, RoundToNearestConfig(bits=4, group_size=128))
            save_compressed(model, report, part / "packed")
    return folder


def ours(meter: Meter, *, folder: str, dtype: str = "auto", screen_head: bool = True) -> None:
    """The same through pomona's public interface."""
    import torch

    from pomona.runtime import Generator

    generator = Generator.load(folder, dtype=dtype, screen_head=screen_head)
    assert generator.engine == "compiled step", generator.notes
    prompt = torch.randint(generator.vocab_size, (PROMPT,), generator=torch.Generator().manual_seed(0)).tolist()
    first = True

    def show(number: int, text: str) -> None:
        nonlocal first
        if first:
            meter.report("first")
            first = False
        meter.tick()

    while True:
        generator.generate([prompt], CONTEXT - PROMPT, stream=show, stop_at_end=False)


def once(meter: Meter, *, target: str, options: dict[str, object]) -> None:
    """Run a contender up to its first token: a fresh process that ends there."""
    import importlib

    class Stop(Exception):
        """The first token has been seen."""

    def report(name: str, **values: object) -> None:
        send(name, **values)
        raise Stop

    send, meter.report = meter.report, report  # type: ignore[method-assign]
    module, _, function = target.partition(":")
    try:
        getattr(importlib.import_module(module), function)(meter, **options)
    except Stop:
        return


def first_token(contender: Contender, caches: Path) -> float:
    """Seconds from the start of an interpreter to the first decoded token."""
    environment = {"POMONA_CACHE": str(caches / "pomona"), "TORCHINDUCTOR_CACHE_DIR": str(caches / "inductor")}
    options = {"target": contender.target, "options": dict(contender.options)}
    fresh = Contender(contender.name, "benchmarks.decode:once", options, environment)
    return next(event["seconds"] for event in run_fresh(fresh) if event["event"] == "first")


def run(*, quick: bool = False) -> None:
    """Measure and print."""
    shape = SMALL if quick else LLAMA_110M
    folder = prepare(shape)
    dense, packed = str(folder / "dense"), str(folder / "packed")

    def peer(name: str, weights: str, compiled: bool) -> Contender:
        options = {"folder": dense, "weights": weights, "compiled": compiled, "prompt": PROMPT, "context": CONTEXT}
        return Contender(name, PEER, options)

    eager32 = peer("transformers, float32", "float32", False)
    eager16 = peer("transformers, bfloat16", "bfloat16", False)
    frozen16 = peer("bfloat16, compiled, frozen", "bfloat16", True)
    torchao = peer("torchao int4, compiled, frozen", "torchao", True)
    aten = peer("torch int4, compiled, frozen", "aten", True)
    ours16 = Contender("pomona, bfloat16", "benchmarks.decode:ours", {"folder": dense, "dtype": "bfloat16"})
    whole = Contender(
        "pomona, 4 bits, head unscreened", "benchmarks.decode:ours", {"folder": packed, "screen_head": False}
    )
    ours4 = Contender("pomona, 4 bits", "benchmarks.decode:ours", {"folder": packed})
    contenders = [eager32, eager16, frozen16, torchao, aten, ours16, whole, ours4]

    protocol = {"rounds": 2 if quick else 9, "ticks_per_round": 2 * (CONTEXT - PROMPT) if not quick else 60}
    with Quiet() as quiet:
        rounds = interleave(contenders, **protocol, warmup_ticks=CONTEXT - PROMPT)
        starts = {}
        for contender in (frozen16, aten, ours4):
            with TemporaryDirectory(dir=WORK) as caches:
                starts[contender.name] = [first_token(contender, Path(caches)) for _ in range(2)]

    speeds = {name: [event["ticks"] / event["seconds"] for event in events] for name, events in rounds.items()}
    best16 = max((eager16.name, frozen16.name), key=lambda name: Spread.of(speeds[name]).median)
    rows = [
        (
            name,
            Spread.of(values).show(".0f"),
            ratios(values, speeds[eager32.name]).show(".2f", "x"),
            ratios(values, speeds[best16]).show(".2f", "x"),
            " / ".join(f"{second:.1f}" for second in starts.get(name, [])),
        )
        for name, values in speeds.items()
    ]
    table(
        f"decoding, batch of one: {shape.matrix_parameters / 1e6:.0f} M parameters in matrices",
        ["", "tokens/s", "vs float32", "vs best bf16", "first token, cold / warm, s"],
        rows,
        f"contexts of {PROMPT} to {CONTEXT} tokens; median (range) of {protocol['rounds']} rounds; "
        "first token from the start of the interpreter, with empty caches and again",
    )
    goals = [
        Goal("4 bits against the best bfloat16", ratios(speeds[ours4.name], speeds[best16]).median, 1.8),
        Goal("4 bits against eager float32", ratios(speeds[ours4.name], speeds[eager32.name]).median, 10),
        Goal("4 bits, tokens per second", Spread.of(speeds[ours4.name]).median, 400, unit="/s"),
    ]
    show_goals(goals)
    save(
        "decode",
        config={**protocol, "prompt": PROMPT, "context": CONTEXT, "parameters": shape.matrix_parameters},
        measured={"tokens_per_second": speeds, "first_token_seconds": starts, "machine_use": quiet.facts()},
        goals=goals,
        code=[Path(__file__), Path(decoding.__file__), *(ROOT / "pomona" / "runtime").glob("*.[pc]*")],
        quick=quick,
    )


if __name__ == "__main__":
    main(run, __doc__)

"""`python -m benchmarks [NAME ...] [--quick]`: every benchmark in a fresh process, then the goals of all of them."""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys

from benchmarks.harness import RESULTS, ROOT, WORK, Goal, table
from pomona.ground.console import output, warn
from pomona.ground.errors import did_you_mean
from pomona.ground.files import read_json

BENCHMARKS = {
    "startup": "import, help and listing; opening shards",
    "corpus": "from the installed documentation to token shards",
    "train_step": "tokens per second of a training step",
    "norms": "a pass with LayerNorm, RMSNorm and a narrower stream",
    "bessel": "logarithms of Bessel functions",
    "sparse_prefill": "attention of a long prompt",
    "token_pruning": "images per second of a vision transformer",
    "adapters": "a step of LoRA and other adapters",
    "gptq": "quantizing weights",
    "decode": "generating text from 4-bit weights",
    "time_to_loss": "seconds until a loss is reached",
}
"""What there is, the quick ones first."""


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmarks that were named, or all of them. Returns 1 when one could not be measured."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        epilog="\n".join(f"  {name:14}{what}" for name, what in BENCHMARKS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: all")
    parser.add_argument("--quick", action="store_true", help="small and short: shows that it works, proves nothing")
    options = parser.parse_args(arguments)
    for name in options.names:
        if name not in BENCHMARKS:
            parser.error(f"no benchmark {name!r}; {did_you_mean(name, BENCHMARKS)}")

    failed, rows = [], []
    for name in options.names or list(BENCHMARKS):
        output().rule(f"[bold]{name}[/]: {BENCHMARKS[name]}")
        if importlib.util.find_spec(f"benchmarks.{name}") is None:
            warn(f"benchmarks/{name}.py is not there")
            failed.append(name)
            continue
        command = [sys.executable, "-m", f"benchmarks.{name}", *(["--quick"] if options.quick else [])]
        if subprocess.run(command, cwd=ROOT, check=False).returncode != 0:
            failed.append(name)
            continue
        result = (WORK / "quick" if options.quick else RESULTS) / f"{name}.json"
        for goal in read_json(result)["goals"] if result.exists() else []:
            goal.pop("reached")
            rows.append((name, *Goal(**goal).show()))
    if rows:
        output().rule("[bold]summary[/]")
        table(
            "goals (a quick run proves nothing)" if options.quick else "goals", ["", "", "measured", "goal", ""], rows
        )
    if failed:
        warn(f"not measured: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

"""`pomona`: run recipes and single stages, list methods, look at data, generate text."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from pomona.cli.anatomy import app as anatomy
from pomona.cli.evidence import app as evidence
from pomona.cli.lazy import BUILDERS, LazyGroup, first_line
from pomona.cli.registry import app as registry
from pomona.ground.console import console, output
from pomona.ground.errors import ConfigError, PomonaError, TrainingDiverged, TrainingStopped
from pomona.ground.ranks import is_main, rank
from pomona.stages import VERBS

app = typer.Typer(
    name="pomona",
    cls=LazyGroup,
    help="The whole life of a pre-trained transformer under a compute budget.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
data = typer.Typer(help="Look at data before anything is made of them.", no_args_is_help=True)


@app.callback(invoke_without_command=True)
def _top(
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.", is_eager=True)] = False,
) -> None:
    if version:
        from pomona import __version__

        output().print(f"pomona {__version__}")
        raise typer.Exit


@app.command()
def run(
    recipe: Annotated[str, typer.Argument(help="A YAML file, or the name of a shipped recipe.")],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="STAGE.KEY=VALUE", help="Change a value of the recipe; may be repeated."),
    ] = None,
    out: Annotated[str, typer.Option(metavar="FOLDER", help="Where runs lie.")] = "runs",
    plan_only: Annotated[bool, typer.Option("--plan-only", help="Check and print the plan; make nothing.")] = False,
) -> None:
    """Run a recipe. Stages that are made already are reused; an interrupted run continues."""
    from pomona.stages import run as run_recipe

    run_recipe(recipe, set_ or (), out=out, plan_only=plan_only)


@app.command()
def clean(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The folder of a run, or the name of its recipe.")],
    finished: Annotated[
        bool, typer.Option("--finished", help="Finished folders, too, that the recipe as it last ran does not lead to.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Remove them; without it they are listed only.")] = False,
    out: Annotated[str, typer.Option(metavar="FOLDER", help="Where runs lie.")] = "runs",
) -> None:
    """List or remove what earlier versions of a recipe have left in the folder of its run."""
    from pomona.cli.show import print_leftovers

    folder = Path(run) if Path(run).is_dir() else Path(out, run)
    print_leftovers(folder, finished=finished, remove=yes)


@app.command()
def watch(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The folder of a run, or the name of its recipe.")],
    every: Annotated[float, typer.Option(help="Seconds between two looks.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Look once and leave.")] = False,
    out: Annotated[str, typer.Option(metavar="FOLDER", help="Where runs lie.")] = "runs",
) -> None:
    """Show how far a run is, from its files alone: in another terminal, or after it died."""
    from pomona.cli.show import watch as show_progress

    show_progress(Path(run) if Path(run).is_dir() else Path(out, run), every=every, once=once)


def _stage(verb: str, values: dict[str, Any], out: str) -> None:
    from pomona.stages import call

    artefact = call(verb, values, out, dashes=True)
    note = artefact.facts.get("note")
    console().print(f"[bold]{artefact.folder}[/]" + (f": {note}" if note else ""))


def _stand_in() -> None:
    """Listed in place of a stage's command, which is built when it is called."""


def _builder(verb: str) -> Callable[[], Callable[..., None]]:
    def build() -> Callable[..., None]:
        from pomona.cli.options import command_for

        return command_for(verb, _stage)

    return build


for _verb, _target in VERBS.items():
    if _verb != "report":  # a report needs the whole run
        BUILDERS[_verb] = _builder(_verb)
        app.command(_verb, help=first_line(_target), rich_help_panel="Stages")(_stand_in)


@app.command(rich_help_panel="Look")
def methods(
    slug: Annotated[str | None, typer.Argument(help="Print this method's card.")] = None,
    kind: Annotated[str | None, typer.Option(help="Only this kind: optimizer, growth, adapter ...")] = None,
    stage: Annotated[str | None, typer.Option(help="Only what this stage takes: pretrain, grow, adapt ...")] = None,
    modality: Annotated[str | None, typer.Option(help="Only for such data: text, image, series ...")] = None,
    status: Annotated[str | None, typer.Option(help="built or planned.")] = None,
    verdict: Annotated[str | None, typer.Option(help="reproduced, partly, 'not reproduced' or 'not run'.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Planned methods too.")] = False,
) -> None:
    """List the methods, or print the card of one."""
    from pomona.cli.show import print_card, print_methods

    if slug is not None:
        print_card(slug)
    else:
        print_methods(kind, stage, modality, status, verdict, every=every)


@app.command(rich_help_panel="Develop")
def new(
    kind: Annotated[str, typer.Argument(help="What it is for: optimizer, growth, sparsity ...")],
    slug: Annotated[str, typer.Argument(help="What recipes will call it; a planned method's, or a new one.")],
    title: Annotated[str, typer.Option(help="Of the paper, where the catalog does not know it.")] = "",
    year: Annotated[int | None, typer.Option(help="Of the paper.")] = None,
    arxiv: Annotated[str | None, typer.Option(help="Of the paper: 2301.00001.")] = None,
    root: Annotated[str, typer.Option(metavar="FOLDER", help="A checkout of pomona.")] = ".",
) -> None:
    """Write the three files of a new method, to be filled in, and its row in the catalog."""
    from pomona.catalog.scaffold import scaffold

    for file in scaffold(kind, slug, Path(root), title=title, year=year, arxiv=arxiv):
        output().print(Text(str(file)))


@app.command(rich_help_panel="Look")
def recipes() -> None:
    """List the recipes that come with pomona."""
    from pomona.cli.show import print_recipes

    print_recipes()


@data.command()
def inspect(
    source: Annotated[
        str, typer.Argument(help="env:docs or another of the environment, hub:NAME, a file, a folder or a glob.")
    ],
    text: Annotated[str, typer.Option(help="The field or column that holds the text.")] = "text",
    documents: Annotated[int, typer.Option(help="How many documents to show.")] = 3,
) -> None:
    """Show what a source holds: its parts, its first documents, and what is known about them."""
    from pomona.cli.show import print_source

    print_source(source, text, documents)


app.add_typer(data, name="data", rich_help_panel="Look")
app.add_typer(anatomy, name="anatomy", rich_help_panel="Look")
app.add_typer(evidence, name="evidence", rich_help_panel="Look")
app.add_typer(registry, name="registry", rich_help_panel="Look")


@app.command(rich_help_panel="Use")
def compare(
    recipes: Annotated[list[str], typer.Argument(metavar="RECIPE RECIPE...", help="Files, or shipped recipes.")],
    budget: Annotated[str, typer.Option(help="Of one run: 10m, 2h, 1e15flops.")],
    seeds: Annotated[int, typer.Option(help="How often each recipe runs.")] = 3,
    data: Annotated[
        str | None, typer.Option(help="A folder, file or source that replaces those of the recipes.")
    ] = None,
    out: Annotated[str, typer.Option(metavar="FOLDER", help="Where runs, table and picture go.")] = "runs/compare",
) -> None:
    """Tell which recipe pays off: run them at one budget, with several seeds, on the same text."""
    from pomona.cli.evidence_show import arms_grid
    from pomona.evidence import compare as run_comparison
    from pomona.evidence.compare import QUALITY

    found = run_comparison(recipes, budget=budget, seeds=seeds, data=data, out=out)
    output().print(arms_grid(found.table, [QUALITY], {}))
    output().print(Text(found.conclusion))
    output().print(Text(f"{found.folder}/comparison.json, {found.folder}/comparison.svg", "dim"))


@app.command(rich_help_panel="Use")
def generate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model folder, dense or 4-bit.")],
    prompt: Annotated[list[str], typer.Argument(metavar="PROMPT...", help="Text to continue.")],
    tokens: Annotated[int, typer.Option(help="How many new tokens, at most.")] = 64,
    temperature: Annotated[float, typer.Option(help="0 always takes the likeliest token.")] = 0.0,
    top_k: Annotated[int | None, typer.Option(help="Choose among so many tokens.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Choose among tokens of this total probability.")] = None,
    seed: Annotated[int, typer.Option(help="Of the choices.")] = 0,
) -> None:
    """Continue a text."""
    from pomona.cli.writing import write_on

    write_on(model, prompt, max_new_tokens=tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)


def main() -> None:
    """The entry point: errors with a remedy are printed without a traceback, with their exit code."""
    try:
        app()
    except PomonaError as error:
        if not is_main() and not isinstance(error, ConfigError | TrainingDiverged | TrainingStopped):
            sys.stderr.write(f"rank {rank()}: {error}\n")  # the others are found by all ranks and said by one
        console().print(Text.assemble((type(error).__name__, "red"), f": {error}"), soft_wrap=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # the reader of a pipe has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)


if __name__ == "__main__":
    main()

"""The command line, and nothing else."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from llm_finetune.errors import UserError

app = typer.Typer(
    add_completion=False, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False
)

Files = Annotated[
    list[Path] | None,
    typer.Option("--values", "-f", metavar="FILE", help="A values file, as for helm; a later one wins."),
]
Assignments = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A value: distributed.train.epochs=3")
]
Strings = Annotated[
    list[str] | None, typer.Option("--set-string", metavar="KEY=VALUE", help="A value that stays a string.")
]
Jsons = Annotated[list[str] | None, typer.Option("--set-json", metavar="KEY=JSON", help="A value in JSON.")]


class WithKeys(TyperCommand):
    """A command whose help ends with the keys of the values files."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        from llm_finetune.settings.generate import help_text

        formatter.write(f"\nKeys of the values files:\n\n{help_text()}\n")


@app.callback()
def about() -> None:
    """Fine-tunes open language models on CPUs, from the same values files as the Helm chart."""


@app.command(cls=WithKeys, context_settings={"help_option_names": ["-h", "--help"]})
def run(
    values: Files = None,
    set_: Assignments = None,
    set_string: Strings = None,
    set_json: Jsons = None,
    check: Annotated[
        bool, typer.Option("--check", help="Check settings, data and model, train nothing.")
    ] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Begin anew, even where this very run is finished.")
    ] = False,
) -> None:
    """Fine-tunes and evaluates a model: settings, data, training, evaluation, results."""
    from llm_finetune.settings import load

    loaded = load(values or [], set_json or [], set_ or [], set_string or [])
    # Nothing heavy is imported before the settings are proved right.
    from llm_finetune import start

    raise typer.Exit(start.start(loaded, check=check, fresh=fresh))


def main() -> None:
    """Runs the command; a user's mistake is shown in a line or a few, without a traceback."""
    try:
        app()
    except UserError as error:
        for problem in error.problems:
            print(f"error: {problem}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()

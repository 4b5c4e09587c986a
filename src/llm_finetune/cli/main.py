"""The command line, and nothing else."""

from __future__ import annotations

import sys
import traceback
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand

from llm_finetune import __version__
from llm_finetune.errors import SettingsError, UserError
from llm_finetune.host.interpreter import keep_working_folder_out
from llm_finetune.runtime import standard_streams
from llm_finetune.runtime.logging import entry, plain
from llm_finetune.storage import user_directories

if TYPE_CHECKING:
    from llm_finetune.config import Loaded

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)

Files = Annotated[
    list[Path] | None,
    typer.Option(
        "--values",
        "-f",
        metavar="FILE",
        help="Values file (YAML); may be repeated, later files override earlier ones.",
    ),
]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set a value, such as distributed.train.seed=3."),
]
Strings = Annotated[
    list[str] | None,
    typer.Option("--set-string", metavar="KEY=VALUE", help="Set a value as a string."),
]
Jsons = Annotated[
    list[str] | None, typer.Option("--set-json", metavar="KEY=JSON", help="Set a value as JSON.")
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Ignore checkpoints and results and start over.")]

HELP = {"help_option_names": ["-h", "--help"]}


class WithKeys(TyperCommand):
    """A command whose help lists the keys of the values files."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        from llm_finetune.config.codegen import help_text

        formatter.write(f"\nKeys of the values files:\n\n{help_text()}\n")


def _show_version(wanted: bool) -> None:
    if wanted:
        standard_streams.show(f"llm-finetune {__version__}")
        raise typer.Exit


@app.callback()
def about(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    """Fine-tune open language models on CPUs, with the values files of the Helm chart."""
    # A worker starts the user's own script, which may import modules from its own directory.
    if context.invoked_subcommand != "worker":
        keep_working_folder_out()
    from llm_finetune.distributed import lower_libraries

    lower_libraries()


@app.command(cls=WithKeys, context_settings=HELP)
def run(
    values: Files = None,
    set_: Assignments = None,
    set_string: Strings = None,
    set_json: Jsons = None,
    settings: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Settings file that is already merged, as the chart mounts it; excludes other options.",
        ),
    ] = None,
    check: Annotated[
        bool,
        typer.Option("--dry-run", "--check", help="Validate settings, data and model without training."),
    ] = False,
    fresh: Fresh = False,
) -> None:
    """Train, evaluate, quantize and benchmark a model."""
    if settings and (values or set_ or set_string or set_json):
        raise typer.BadParameter("cannot be combined with -f or --set: the settings are already merged")
    loaded = _loaded(values, set_, set_string, set_json, settings)
    # Nothing heavy is imported before the settings are validated.
    from llm_finetune.launcher import start

    raise typer.Exit(start.start(loaded, check=check, fresh=fresh))


def _add_stage(stage: str, words: str) -> None:
    """Adds the command that runs one stage, on the model that an earlier job left."""

    @app.command(stage, cls=WithKeys, context_settings=HELP, help=words)
    def alone(
        values: Files = None,
        set_: Assignments = None,
        set_string: Strings = None,
        set_json: Jsons = None,
        fresh: Fresh = False,
    ) -> None:
        loaded = _loaded(values, set_, set_string, set_json)
        from llm_finetune.config import only
        from llm_finetune.launcher import start

        settings = only(stage, loaded.settings)
        raise typer.Exit(start.start(replace(loaded, settings=settings), check=False, fresh=fresh))


_add_stage("evaluate", "Evaluate the tuned model in train.outputDir and its base model.")
_add_stage("quantize", "Quantize the tuned model in train.outputDir.")
_add_stage("benchmark", "Benchmark the tuned model in train.outputDir and the quantized model.")


@app.command(cls=WithKeys, context_settings=HELP)
def report(
    values: Files = None,
    set_: Assignments = None,
    set_string: Strings = None,
    set_json: Jsons = None,
) -> None:
    """Generate report.html from the results in train.outputDir."""
    loaded = _loaded(values, set_, set_string, set_json)
    from llm_finetune.report.html import ReportPage, make_report

    folder = Path(loaded.settings.train.output_dir)
    make_report(folder).write(folder)
    standard_streams.show(entry(f"{folder / ReportPage.file_name}"))


def _loaded(
    values: list[Path] | None,
    set_: list[str] | None,
    set_string: list[str] | None,
    set_json: list[str] | None,
    settings: Path | None = None,
) -> Loaded:
    """The settings: handed over by another process of this job, or read now."""
    from llm_finetune.config import handed_on, load, load_merged
    from llm_finetune.distributed import Ranks

    if loaded := handed_on():
        return loaded
    if settings:
        return load_merged(settings)
    if Path("-") in (values or []) and Ranks.from_environment().size > 1:
        raise SettingsError("-f -: only one of several processes can read standard input; use a file")
    return load(values or [], set_json or [], set_ or [], set_string or [])


@app.command(context_settings=HELP)
def worker(
    settings: Annotated[Path, typer.Option(metavar="FILE", help="Mounted file of merged settings.")],
    volume: Annotated[Path, typer.Option(help="Mount path of the volume.")],
    wait_for_workers: Annotated[int, typer.Option(min=1, help="Number of workers to wait for at first.")] = 1,
    upload_timeout_minutes: Annotated[
        float,
        typer.Option(min=0, help="Maximum time to wait for data and models on the volume."),
    ] = 60.0,
    data_pod: Annotated[str, typer.Option(help="Pod through which data is copied.")] = "",
    namespace: Annotated[str, typer.Option(help="Namespace of the release.")] = "",
    grace_seconds: Annotated[
        float, typer.Option(min=1, help="Time that ranks have to stop after SIGTERM.")
    ] = 270.0,
) -> None:
    """Run the ranks of one worker pod (used by the chart)."""
    from llm_finetune.launcher import pid1
    from llm_finetune.launcher import worker as launcher

    options = launcher.Options(
        settings, volume, wait_for_workers, upload_timeout_minutes, data_pod, namespace, grace_seconds
    )
    raise typer.Exit(pid1.under_init(lambda: launcher.work(options), launcher.was_killed))


@app.command(context_settings=HELP)
def chat(
    folder: Annotated[
        Path, typer.Argument(help="Directory of an adapter, a merged model or a quantized model.")
    ],
    temperature: Annotated[
        float, typer.Option(min=0, help="Sampling temperature; 0 selects greedy decoding.")
    ] = 0.7,
    top_k: Annotated[
        int, typer.Option(min=0, help="Sample from the k most likely tokens (0 disables).")
    ] = 40,
    top_p: Annotated[
        float,
        typer.Option(min=0, max=1, help="Sample from the most likely tokens with this total probability."),
    ] = 0.95,
    seed: Annotated[int, typer.Option(min=0, help="Random seed for reproducible answers.")] = 0,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Maximum length of an answer in tokens.")] = 512,
    system: Annotated[str, typer.Option(help="System prompt.")] = "",
    instruction: Annotated[
        str,
        typer.Option(
            help="Instruction to apply to each line, for models tuned on instructions with an input."
        ),
    ] = "",
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run the Python code that comes with the model.")
    ] = False,
) -> None:
    """Chat with a model, interactively or from a pipe."""
    from llm_finetune.chat import session

    session.chat(
        folder,
        session.ChatOptions(
            temperature, top_k, top_p, seed, max_new_tokens, system, instruction, trust_remote_code
        ),
    )


@app.command(context_settings=HELP)
def merge(
    folder: Annotated[Path, typer.Argument(help="Directory of the adapter.")],
    output: Annotated[
        Path, typer.Argument(help="Directory for the merged model; must be empty or not exist.")
    ],
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run the Python code that comes with the model.")
    ] = False,
) -> None:
    """Merge an adapter into its base model and save it for transformers."""
    from llm_finetune.export.merge import merge as write_merged

    size_bytes = write_merged(folder, output, trust_remote_code=trust_remote_code)
    standard_streams.show(entry(f"{output}: {size_bytes / 1e6:,.1f} MB of weights"))


def main() -> None:
    """Runs the command; a user error is shown without a traceback."""
    standard_streams.open_all()
    user_directories.provide()
    try:
        app()
    except UserError as error:
        from llm_finetune.runtime.termination_message import report_error

        report_error(error.problems)
        _leave(error.exit_code)
    except Exception:
        with suppress(OSError):  # standard error may be closed
            print(plain(traceback.format_exc()), end="", file=sys.stderr, flush=True)
        _leave(1)
    finally:
        standard_streams.close()


def _leave(exit_code: int) -> NoReturn:
    from llm_finetune.distributed import is_launched_as_rank
    from llm_finetune.runtime.watchdog import force_exit

    if is_launched_as_rank():
        force_exit(exit_code)
    sys.exit(exit_code)


if __name__ == "__main__":
    main()

"""The program: its root options and every command, registered explicitly."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import branches, going_back, looking, mending, migrating, notifying, setup, watching
from .session import Debug, Json, LogFormat, Session, program_version


def _version(asked: bool) -> None:
    if asked:
        print(f"branchmig {program_version()}")
        raise typer.Exit


app = typer.Typer(
    name="branchmig",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Bring the database of every branch office to one schema revision.",
    epilog="First steps: branchmig init, branchmig branch add, branchmig apply-all, "
    "branchmig status.",
)


@app.callback()
def root(
    context: typer.Context,
    json: Json = False,
    debug: Debug = False,
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", help="The settings file.", show_default=False),
    ] = None,
    log_format: Annotated[LogFormat, typer.Option(help="How log lines are written.")] = "human",
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Options before the command hold for every command."""
    context.obj = Session(json=json, debug=debug, config=config, log_format=log_format)


setup.register(app)
branches.register(app)
migrating.register(app)
mending.register(app)
going_back.register(app)
looking.register(app)
notifying.register(app)
watching.register(app)

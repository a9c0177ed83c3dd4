"""The commands of the command line, one file each; `app` is the typer application."""

from __future__ import annotations

import typer

from server import __version__
from server.commands import (
    check,
    index,
    learn,
    manage,
    models,
    predict,
    profile,
    push,
    serve,
    similar,
)

app = typer.Typer(
    name="millrace",
    help="Serve neural networks: ONNX files in a folder, answers over HTTP.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"millrace {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(
        False, "--version", callback=_show_version, is_eager=True, help="Show the version."
    ),
) -> None:
    """Hold the options of the command itself."""


for _command in (serve, push, models, predict, check, profile, index, similar, learn):
    app.command()(getattr(_command, _command.__name__.rpartition(".")[2]))
for _change in (manage.load, manage.unload, manage.promote, manage.rollback, manage.label):
    app.command()(_change)
app.command()(manage.delete)

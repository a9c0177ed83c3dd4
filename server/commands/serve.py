"""`millrace serve`: run the server."""

from __future__ import annotations

import asyncio
import os
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from server.app import Application
from server.commands.common import console, errors, fail, settings_from, until_ready
from server.process import run_server
from server.repository.text_golden import read_text_samples
from server.settings import Settings, likely_slips


def serve(
    repository: Annotated[
        Path | None, typer.Argument(help="Folder of models; default: model_repo.")
    ] = None,
    host: Annotated[
        str | None, typer.Option(help="Address to listen on; default: 127.0.0.1.")
    ] = None,
    port: Annotated[int | None, typer.Option(help="Port, by default 8000; 0: a free one.")] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with settings.")] = None,
    cache_dir: Annotated[
        Path | None,
        typer.Option(help="Keeps compiled models: the next start takes no compilation."),
    ] = None,
    control: Annotated[str | None, typer.Option(help="`auto` or `explicit`.")] = None,
    watch: Annotated[bool | None, typer.Option(help="React to file events.")] = None,
    isolate: Annotated[bool | None, typer.Option(help="Compile in a child process.")] = None,
    device: Annotated[str | None, typer.Option(help="`cpu` or `reference`.")] = None,
    worker_threads: Annotated[int | None, typer.Option(help="Threads for requests.")] = None,
    engine_threads: Annotated[int | None, typer.Option(help="Threads of one run.")] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning, error.")] = None,
    log_format: Annotated[str | None, typer.Option(help="`text` or `json`.")] = None,
    access_log: Annotated[bool | None, typer.Option(help="One line per request.")] = None,
    drain_timeout_s: Annotated[float | None, typer.Option(help="Bound of a shutdown.")] = None,
) -> None:
    """Serve a folder of models over HTTP.

    Every other setting is an environment variable MILLRACE_* or a key of the --config file.
    """
    flags: dict[str, Any] = {
        "repository": repository,
        "host": host,
        "port": port,
        "config": config,
        "cache_dir": cache_dir,
        "control": control,
        "watch": watch,
        "isolate": isolate,
        "device": device,
        "worker_threads": worker_threads,
        "engine_threads": engine_threads,
        "log_level": log_level,
        "log_format": log_format,
        "access_log": access_log,
        "drain_timeout_s": drain_timeout_s,
    }
    settings = settings_from(**flags)
    if not settings.repository.is_dir():
        fail(
            f"the repository {settings.repository} is not a folder; make it, or name another: "
            "millrace serve FOLDER",
            2,
        )
    for name, meant in likely_slips(os.environ):
        errors.print(f"{name} is not a setting; did you mean {meant}?", highlight=False)
    run_server(settings, lambda url, app: _announce(url, app, settings))


def _announce(url: str, app: Application, settings: Settings) -> None:
    console.print(f"Millrace serves {settings.repository} on {url}", highlight=False)
    task = asyncio.get_running_loop().create_task(_show_example(url, app))
    task.add_done_callback(lambda done: None if done.cancelled() else done.exception())
    app.state.announcement = task  # keeps it alive


async def _show_example(url: str, app: Application) -> None:
    """Once the models are loaded, print a line that works when it is pasted into a shell."""
    await until_ready(lambda: app.runtime.ready)
    said = f"Ready. Try:\n\n    {example_line(url, app)}\n\nor open {url} in a browser.\n"
    console.print(said, highlight=False, soft_wrap=True)


def example_line(url: str, app: Application) -> str:
    """Return a curl line for one of the loaded models, or for the list of models."""
    deployments = app.runtime.handlers.repository.deployments()
    for deployment in deployments:
        pictures = (".png", ".jpg", ".jpeg")
        folders = (deployment.folder / "samples", deployment.folder, deployment.folder.parent)
        for folder in folders:
            if deployment.config.preprocess is None or not folder.is_dir():
                continue
            found = sorted(path for path in folder.iterdir() if path.suffix in pictures)
            if found:
                return (
                    f"curl -s '{url}/predict?model={deployment.model}' "
                    f"-H 'Content-Type: image/{_kind(found[0])}' --data-binary @{found[0]}"
                )
    for deployment in deployments:
        if deployment.text_model is not None:
            samples = read_text_samples(deployment.folder)
            text = samples[0].text if samples else "Hello!"
            return (
                f"curl -s '{url}/translate?model={deployment.model}' "
                f"-H 'Content-Type: text/plain' -d {shlex.quote(text)}"
            )
    return f"curl -s {url}/models"


def _kind(path: Path) -> str:
    return "png" if path.suffix == ".png" else "jpeg"

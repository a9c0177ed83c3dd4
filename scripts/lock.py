"""Write `requirements/*.txt`: every package that is installed, at the version that was tested.

    python -m scripts.lock          # after installing `.[dev]` without the locks

Each file holds an extra of pyproject.toml and everything it leads to, pinned. `make`, CI and the
image install from them, so that what was tested is what runs.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
# File -> extras beside the dependencies. What `make serve` and the image install has every route.
LOCKS = {"core.txt": (), "serve.txt": ("similarity", "learning"), "dev.txt": ("dev",)}
HEADER = "# Written by `make lock`: {what}, with everything it needs. Do not edit.\n"


def declared(extras: tuple[str, ...]) -> list[Requirement]:
    """Return what pyproject.toml asks for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = list(project["dependencies"])
    for extra in extras:
        lines += project["optional-dependencies"][extra]
    return [Requirement(line) for line in lines]


def needed_by(requirement: Requirement) -> Iterator[Requirement]:
    """Yield what an installed package asks for on this machine."""
    for line in distribution(requirement.name).requires or ():
        child = Requirement(line)
        extras = {"", *requirement.extras}
        if child.marker is None or any(child.marker.evaluate({"extra": e}) for e in extras):
            yield child


def closure(roots: list[Requirement]) -> dict[str, str]:
    """Return name -> version of the packages and of all that they lead to."""
    pins: dict[str, str] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = [root for root in roots if root.marker is None or root.marker.evaluate()]
    while waiting:
        requirement = waiting.pop()
        key = (canonicalize_name(requirement.name), frozenset(requirement.extras))
        if key in seen:
            continue
        seen.add(key)
        pins[key[0]] = distribution(requirement.name).version
        waiting += needed_by(requirement)
    return pins


def main() -> None:
    """Write the files."""
    for name, extras in LOCKS.items():
        what = "the server" if not extras else f"the server and its extras {', '.join(extras)}"
        pins = closure(declared(extras))
        lines = [f"{package}=={pins[package]}\n" for package in sorted(pins)]
        (ROOT / "requirements" / name).write_text(HEADER.format(what=what) + "".join(lines))
        print(f"requirements/{name}: {len(pins)} packages")


if __name__ == "__main__":
    main()

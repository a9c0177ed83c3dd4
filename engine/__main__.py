"""`python -m engine`: the command line, or a child of `engine.load(..., isolate=True)`."""

from __future__ import annotations

import sys
from pathlib import Path

from engine import child, cli


def main(arguments: list[str]) -> int:
    """Run the command line; return its exit status."""
    match arguments:
        case ["compile", source, "-o", artifact, "--isolated"]:
            return child.main(Path(source), Path(artifact))
    return cli.main(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""A program that publishes for ever, to be killed. Run as `python publisher.py ROOT KIND`."""

import sys
from pathlib import Path

from server.repository.publish import publish_path, remove

BYTES = 3 << 20


def main(root: Path, source: Path) -> None:
    """Publish version after version, and remove every third."""
    while True:
        published = publish_path(root, "model", None, source, limit_bytes=1 << 30)
        sys.stdout.write("published\n")
        sys.stdout.flush()
        if int(published.version) % 3 == 0:
            remove(root, "model", published.version)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

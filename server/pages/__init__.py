"""The pages for people: the console at `/`, and the API at `/docs`.

Each is one file when it is sent: nothing comes from another host, so that they work without an
internet, and a policy says so to the browser. What they show they ask of the public routes.
"""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from importlib.resources import files

__all__ = ["page"]

_INCLUDE = re.compile(r"\{\{([\w.]+)\}\}")
_SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)


@cache
def page(name: str) -> tuple[bytes, str]:
    """Return a page's HTML, with its style and scripts in it, and its Content-Security-Policy."""
    folder = files(__name__)
    html = _INCLUDE.sub(
        lambda found: (folder / found[1]).read_text("utf-8"),
        (folder / f"{name}.html").read_text("utf-8"),
    )
    allowed = " ".join(f"'sha256-{_digest(script)}'" for script in _SCRIPT.findall(html))
    policy = (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; "
        "img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
    return html.encode(), policy


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()

"""Who may change the server's state: the holder of the admin token, or, without one, this machine.

"This machine" means a loopback peer that is not a proxy and not a browser acting for another site:
a web page can make a browser on this machine send requests here (CSRF, DNS rebinding).
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from server.errors import Forbidden, Unauthorized
from server.settings import Settings

_PROXY_HEADERS = (b"x-forwarded-for", b"forwarded", b"x-real-ip")
_HOW = "set MILLRACE_ADMIN_TOKEN and send it as `Authorization: Bearer <token>`"


def require_admin(
    client: tuple[str, int] | None, headers: Mapping[bytes, bytes], settings: Settings
) -> None:
    """Let the request pass if it may change the server's state.

    Raises:
        Unauthorized: a token is set, and the request does not carry it.
        Forbidden: no token is set, and the request does not come from this machine.
    """
    if settings.admin_token is not None:
        _check_token(headers, settings.admin_token.get_secret_value())
        return
    if any(name in headers for name in _PROXY_HEADERS):
        raise Forbidden(f"this route answers proxies only with a token: {_HOW}")
    if client is None or not is_loopback(client[0]):
        raise Forbidden(f"without an admin token this route answers loopback only: {_HOW}")
    if not _meant_for_this_machine(headers):
        raise Forbidden(f"this route does not answer other sites' pages in a browser: {_HOW}")


def _check_token(headers: Mapping[bytes, bytes], token: str) -> None:
    scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
    wanted = token.encode()
    # compare_digest takes the same time wherever the first difference is.
    if scheme.lower() != b"bearer" or not hmac.compare_digest(given.strip(), wanted):
        raise Unauthorized(
            "this route needs the admin token as `Authorization: Bearer <token>`; "
            + ("the one given is wrong" if given else "there is none")
        )


def is_loopback(host: str) -> bool:
    """Say whether a host is this machine, by its address or the name `localhost`."""
    if host.lower() in ("localhost", "localhost."):
        return True
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped.is_loopback
    return address.is_loopback


def _meant_for_this_machine(headers: Mapping[bytes, bytes]) -> bool:
    host = headers.get(b"host", b"").decode("latin-1")
    if host and not is_loopback(_hostname("//" + host)):
        return False
    origin = headers.get(b"origin", b"").decode("latin-1")
    return not origin or urlsplit_netloc(origin) == host


def urlsplit_netloc(url: str) -> str | None:
    """Return the host and port of a URL; None if it has none."""
    try:
        return urlsplit(url).netloc or None
    except ValueError:
        return None


def _hostname(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def guarded(scope: Mapping[str, Any], headers: Mapping[bytes, bytes], settings: Settings) -> None:
    """Apply `require_admin` to an ASGI request."""
    require_admin(scope.get("client"), headers, settings)

"""Keeps other web pages out: a browser that visits them can reach a server on this machine too."""

import ipaddress
from collections.abc import Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# No inline script or style, and no address but ours; blob: shows an upload before it is sent.
_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


def guard(app: ASGIApp, hosts: Collection[str] = ()) -> ASGIApp:
    """Wraps an application so that only its own pages, and programs that are no browser, use it.

    Args:
      app: Application.
      hosts: Names of this machine that requests may be for, beside localhost and IP addresses.
    """

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await app(scope, receive, send)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        reason = _refusal(Headers(scope=scope), hosts)
        answer = app if reason is None else JSONResponse({"error": reason}, status_code=403)
        return await answer(scope, receive, send_with_headers)

    return guarded


def _refusal(headers, hosts):
    """Returns the reason to refuse a request, or None."""
    host = headers.get("host", "")
    if not _is_own(host, hosts):
        return f"this server is not {host[:100]!r}; start it with --host to serve under a name"
    # Sent by every browser of today; a link from elsewhere to the page itself is welcome.
    site, mode = headers.get("sec-fetch-site"), headers.get("sec-fetch-mode")
    if site in ("cross-site", "same-site") and mode != "navigate":
        return "another site may not ask this server"
    return None


def _is_own(host, hosts):
    """Returns whether a Host header names this server.

    A hostile page can point a name of its own at 127.0.0.1 (DNS rebinding), but no IP address.
    """
    name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
    if name.lower() in ("localhost", *(each.lower() for each in hosts)):
        return True
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True

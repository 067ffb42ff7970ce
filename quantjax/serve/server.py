"""Runs an application on a port of this machine until Ctrl-C."""

import signal
import socket
from collections.abc import Callable

import uvicorn
from starlette.types import ASGIApp

from quantjax.errors import FileError, InputError

_CONNECTIONS = 400  # more at a time are answered 503, so that none takes the last file handle


def listen(host: str, port: int) -> socket.socket:
    """Opens a port for connections, which wait there until `serve` answers them.

    Args:
      host: Name or address of this machine.
      port: Number of the port, or 0 for a free one.

    Raises:
      ValueError: if the port is no port number.
      OSError: if the port is taken or not allowed, or the host is not this machine.
    """
    if not 0 <= port < 1 << 16:
        raise InputError(f"port must be from 0 to 65535, got {port}")
    # uvicorn would open the port itself, but end the process where it cannot.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        raise FileError(
            f"cannot listen on {host} port {port}: {error.strerror or error}; choose another --port"
        ) from error


def url(listener: socket.socket) -> str:
    """Returns the address of the page of a listening socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def make_server(app: ASGIApp) -> uvicorn.Server:
    """Returns a server whose `run(sockets=[...])` answers requests until it is told to exit.

    Args:
      app: From `make_app`.
    """
    return uvicorn.Server(
        uvicorn.Config(
            app,
            access_log=False,
            log_level="warning",
            lifespan="off",
            ws="none",
            server_header=False,
            limit_concurrency=_CONNECTIONS,
            timeout_graceful_shutdown=5,
        )
    )


def serve(app: ASGIApp, listener: socket.socket, announce: Callable[[], None]) -> None:
    """Answers requests until Ctrl-C, then finishes those in flight. For the main thread.

    Args:
      app: From `make_app`.
      listener: From `listen`.
      announce: Called once Ctrl-C ends the server cleanly, before the first answer.
    """
    server = make_server(app)
    # uvicorn's own handlers come with its loop. Until then a KeyboardInterrupt might be raised
    # where Python ignores errors, such as in JAX's garbage collection, and be lost.
    before = signal.signal(signal.SIGINT, server.handle_exit)
    try:
        announce()
        server.run(sockets=[listener])
    finally:
        signal.signal(signal.SIGINT, before)

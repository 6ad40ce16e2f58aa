"""The server as a program: from a model that is open to the signal that ends it."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

from w2v.errors import MissingPackageError
from w2v_cli.serve.flags import ServeOptions
from w2v_cli.stop import Stop

if TYPE_CHECKING:
    from w2v.inference.live_options import LiveOptions
    from w2v.inference.subtitles import SubtitleStyle
    from w2v.inference.transcriber import Transcriber


def check_packages() -> None:
    """Raise unless the server can run.

    Raises:
        MissingPackageError: websockets is not installed.
    """
    try:
        import websockets.server  # noqa: F401
    except ImportError as e:
        raise MissingPackageError("websockets", "live", "--serve") from e


def serve(transcriber: Transcriber, options: LiveOptions, style: SubtitleStyle, flags: ServeOptions) -> None:
    """Print the address of the page, and serve it until SIGINT or SIGTERM.

    Raises:
        ConfigError: the address cannot be used.
        MissingPackageError: websockets is not installed.
    """
    check_packages()
    asyncio.run(_serve(transcriber, options, style, flags))


async def _serve(transcriber: Transcriber, options: LiveOptions, style: SubtitleStyle, flags: ServeOptions) -> None:
    from w2v_cli.serve.server import Server

    server = Server(transcriber, options, flags.access, style)
    loop = asyncio.get_running_loop()

    def ready(port: int) -> None:
        query = "" if flags.token is None else f"?token={flags.token}"
        for host in printed_hosts(flags.host):
            print(f"http://{host}:{port}/{query}", flush=True)

    with Stop(lambda: loop.call_soon_threadsafe(server.stop)):
        await server.run(flags.host, flags.port, ready)


def printed_hosts(host: str) -> list[str]:
    """Return the names under which browsers reach an address, the one with a microphone first."""
    if host in ("0.0.0.0", "::"):
        return ["127.0.0.1" if host == "0.0.0.0" else "[::1]", socket.gethostname()]
    return [f"[{host}]" if ":" in host else host]

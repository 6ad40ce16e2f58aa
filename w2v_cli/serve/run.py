"""The server as a program: from a model that is open to the signal that ends it."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

from w2v.errors import MissingPackageError
from w2v_cli.serve.flags import ServeOptions

if TYPE_CHECKING:
    from w2v.inference.live_options import LiveOptions
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


def serve(transcriber: Transcriber, options: LiveOptions, flags: ServeOptions) -> None:
    """Print the address of the page, and serve it until SIGINT or SIGTERM.

    Raises:
        ConfigError: the address cannot be used.
        MissingPackageError: websockets is not installed.
    """
    check_packages()
    asyncio.run(_serve(transcriber, options, flags))


async def _serve(transcriber: Transcriber, options: LiveOptions, flags: ServeOptions) -> None:
    from w2v_cli.serve.server import Server

    server = Server(transcriber, options, flags.access)
    loop = asyncio.get_running_loop()

    def stop() -> None:
        server.stop()
        for number in (signal.SIGINT, signal.SIGTERM):  # the second one does not wait
            loop.remove_signal_handler(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)

    def ready(port: int) -> None:
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(flags.host, flags.host)
        host = f"[{host}]" if ":" in host.strip("[]") else host
        query = "" if flags.token is None else f"?token={flags.token}"
        print(f"http://{host}:{port}/{query}", flush=True)

    await server.run(flags.host, flags.port, ready)

"""The flags of `w2v-live --serve`. Needs no torch; what serves is imported where it is asked for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from w2v.config import arg, check_range, str_tuple
from w2v.errors import ConfigError

if TYPE_CHECKING:
    from w2v_cli.serve.access import Access

_TOKEN = re.compile(r"[A-Za-z0-9._~-]+")
_ORIGIN = re.compile(r"https?://[^/\s:]+(:[0-9]+)?")


@dataclass(frozen=True)
class ServeOptions:
    """Where a page with a microphone is served, and to whom."""

    serve: bool = arg(
        False, help="serve a page that hears in the browser, and POST /v1/audio/transcriptions as OpenAI's clients "
        "send it; no other source is heard"
    )  # fmt: skip
    host: str = arg("127.0.0.1", help="address to serve on; 0.0.0.0: to other machines too, which needs --token")
    port: int = arg(8000, help="port to serve on; 0: any that is free")
    token: str | None = arg(None, help="word that clients must know: in the address, or as the key of OpenAI's clients")
    origin: tuple[str, ...] = arg(
        (), help="address of the page behind a proxy, such as https://live.example.org; parted by commas",
        parse=str_tuple,
    )  # fmt: skip

    def __post_init__(self) -> None:
        check_range(self, 0, 65535, "port")
        if not self.serve:
            for name, value in (("--token", self.token), ("--origin", self.origin)):
                if value:
                    raise ConfigError(f"{name} is for --serve; add that flag")
            return
        if self.token is not None and not _TOKEN.fullmatch(self.token):
            raise ConfigError("--token must consist of letters, digits and the marks . _ ~ -")
        for origin in self.origin:
            if not _ORIGIN.fullmatch(origin):
                raise ConfigError(f"--origin must be like https://live.example.org, without a path, got {origin!r}")
        from w2v_cli.serve.access import is_loopback

        if self.token is None and not is_loopback(self.host):
            raise ConfigError(f"--host {self.host} lets other machines in: give --token WORD")
        if self.token is None and self.origin:
            raise ConfigError("--origin lets other machines in: give --token WORD")

    @property
    def access(self) -> Access:
        """Who may ask."""
        from w2v_cli.serve.access import Access

        return Access(self.host, self.token, tuple(origin.lower() for origin in self.origin))

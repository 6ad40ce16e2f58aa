"""Which requests are answered: those to a name of ours, from a page of ours, and with the token where there is one.

Any page in the browser can send requests to a server on the same machine, and a name that its owner points to
127.0.0.1 makes that page count as ours (DNS rebinding). So both headers are compared as a whole, never in part.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
import socket
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie

from w2v_cli.serve.http import HttpError, Request

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^:\[\]/\s;,]+)(?::[0-9]*)?")
OF_THIS_MACHINE = frozenset(("localhost", "127.0.0.1", "[::1]"))


def is_loopback(host: str) -> bool:
    """Return whether only programs of this machine reach an address."""
    if host.lower() == "localhost":
        return True
    address = _address(host)
    return address is not None and address.is_loopback


@dataclass(frozen=True)
class Access:
    """Whom a server answers.

    Attributes:
        host: the address that it listens on.
        token: what a request must carry; None: nothing.
        origins: of pages behind a proxy, such as `https://live.example.org`.
    """

    host: str
    token: str | None = None
    origins: tuple[str, ...] = ()
    names: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        names = {self.host.lower(), *OF_THIS_MACHINE, *(origin.partition("://")[2] for origin in self.origins)}
        if not is_loopback(self.host):
            own = socket.gethostname().lower()
            names |= {own, f"{own}.local"}
        object.__setattr__(self, "names", frozenset(_name(name) for name in names))

    def check(self, request: Request) -> None:
        """Raise unless the request is addressed to us, and not sent by a foreign page.

        Raises:
            HttpError: 403.
        """
        host = request.headers.get("host", "").lower()
        if not self._is_ours(host):
            raise HttpError(403, f"This server is not {host or 'nameless'}: open the address that it printed.")
        origin = request.headers.get("origin")  # programs send none
        if origin is not None and origin.lower() not in (f"http://{host}", *self.origins):
            raise HttpError(403, f"Pages of {origin} may not use this server.")

    def check_token(self, request: Request) -> None:
        """Raise unless the request carries the token: in its address, in a cookie, or as OpenAI's clients do.

        Raises:
            HttpError: 401.
        """
        if self.token is None:
            return
        found = [request.query.get("token"), self._cookie(request)]
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            found.append(key.strip())
        if not any(self._is_token(value) for value in found):
            raise HttpError(401, "This server needs its token: open the address that it printed, or send the token.")

    def cookie(self, request: Request) -> str:
        """Return the header that makes a browser remember the token: for this server, and for no script."""
        return f"{_cookie_name(request)}={self.token}; Path=/; HttpOnly; SameSite=Strict"

    def _is_ours(self, host: str) -> bool:
        name = _name(host)
        # An address cannot be pointed elsewhere.
        return name in self.names or (not is_loopback(self.host) and _address(name) is not None)

    def _is_token(self, value: str | None) -> bool:
        return value is not None and hmac.compare_digest(value.encode(), (self.token or "").encode())

    def _cookie(self, request: Request) -> str | None:
        try:
            cookies = SimpleCookie(request.headers.get("cookie", ""))
        except CookieError:
            return None
        found = cookies.get(_cookie_name(request))
        return None if found is None else found.value


def _cookie_name(request: Request) -> str:
    """Return a name that tells the port: browsers share cookies among all ports of a machine."""
    port = request.headers.get("host", "").rpartition(":")[2]
    return f"w2v-{port}" if port.isascii() and port.isdigit() else "w2v"


def _name(host: str) -> str:
    """Return a host without its port, `[::1]` for `[::1]:80` and for `::1`; "" where that is no host and no port."""
    if host.count(":") > 1 and not host.startswith("["):
        return f"[{host}]"
    found = _HOST.fullmatch(host)
    return found[1].rstrip(".") if found else ""


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None

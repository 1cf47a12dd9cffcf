"""A network that fails on demand: a TCP proxy on the loopback that cuts, stalls and loses answers.

It acts on what passes, so that no test has to hit a moment: on bytes of the client that a pattern finds (SQL stands in
them as it is), or after a number of bytes that the server sent over one connection.
"""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import threading
from collections.abc import Callable
from typing import Literal
from urllib.parse import urlsplit

Fault = Literal["cut", "stall", "lose"]
"""What happens to one connection.

cut     both sides get a TCP RST; nothing of what was just read passes
stall   it stays open, and nothing passes any more, as behind a firewall that forgot it
lose    the client's bytes pass, the server's answer does not: the connection is cut in its place
"""


class _Pair:
    """The two sides of a connection through the proxy."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.sides = (client, server)
        self.answered = 0  # bytes
        self.fault: Fault | None = None

    def reset(self) -> None:
        for side in self.sides:
            with contextlib.suppress(OSError):
                side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                side.close()


class Proxy:
    """Passes bytes until it is told otherwise.

    Attributes:
        struck: set as soon as a fault that was asked for has happened.
        connections: how many there have been.
    """

    def __init__(self, host: str, port: int) -> None:
        self.struck = threading.Event()
        self.connections = 0
        self._target = (host, port)
        self._passing = threading.Event()
        self._passing.set()
        self._closed = threading.Event()
        self._pairs: list[_Pair] = []
        self._sent: tuple[re.Pattern[bytes], Fault] | None = None
        self._answered: tuple[int, Fault] | None = None
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def fail_on(self, sent: str, fault: Fault) -> None:
        """The next connection whose client sends bytes that the pattern finds has this fault, once."""
        self.struck.clear()
        self._sent = (re.compile(sent.encode()), fault)

    def fail_after(self, answered: int, fault: Fault) -> None:
        """The first connection over which the server has sent so many bytes has this fault, once."""
        self.struck.clear()
        self._answered = (answered, fault)

    def reset(self) -> None:
        """Every connection gets a TCP RST."""
        pairs, self._pairs = self._pairs, []
        for pair in pairs:
            pair.reset()

    def freeze(self) -> None:
        """Every connection stalls, new ones too."""
        self._passing.clear()

    def thaw(self) -> None:
        self._passing.set()

    def close(self) -> None:
        self._closed.set()
        self._passing.set()
        self._listener.close()
        self.reset()

    def alter(self, data: bytes) -> bytes:
        """What passes in the place of these bytes: themselves. A proxy of another kind has its own."""
        return data

    # --- inside ----------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                try:
                    server = socket.create_connection(self._target)
                except OSError:  # it is down: so is the client's way to it
                    client.close()
                    continue
                pair = _Pair(client, server)
                self.connections += 1
                self._pairs.append(pair)
                for source, sink, meets in (
                    (client, server, self._meet_sent),
                    (server, client, self._meet_answered),
                ):
                    source.settimeout(0.05)  # a thread that waits in recv would keep a closed socket open
                    threading.Thread(target=self._pass, args=(pair, source, sink, meets), daemon=True).start()

    def _pass(
        self, pair: _Pair, source: socket.socket, sink: socket.socket, meets: Callable[[_Pair, bytes], None]
    ) -> None:
        with contextlib.suppress(OSError):
            while True:
                try:
                    data = source.recv(65_536)
                except TimeoutError:
                    continue
                if not data:
                    break
                self._passing.wait()
                meets(pair, data)
                data = self.alter(data)
                if pair.fault == "stall":
                    self._closed.wait()
                elif pair.fault == "cut" or (pair.fault == "lose" and source is pair.sides[1]):
                    self.struck.set()
                    pair.reset()
                sink.sendall(data)
        for side in (source, sink):
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)

    def _meet_sent(self, pair: _Pair, data: bytes) -> None:
        with self._lock:
            if self._sent is not None and self._sent[0].search(data):
                pair.fault, self._sent = self._sent[1], None
                if pair.fault != "lose":  # the answer that is lost comes later
                    self.struck.set()

    def _meet_answered(self, pair: _Pair, data: bytes) -> None:
        pair.answered += len(data)
        with self._lock:
            if self._answered is not None and pair.answered >= self._answered[0]:
                pair.fault, self._answered = self._answered[1], None
                self.struck.set()


def put_before(url: str, **parameters: str) -> tuple[str, Proxy]:
    """A proxy before the server of a URL, and the URL through it, with these parameters of libpq's added."""
    parts = urlsplit(url)
    assert parts.hostname and parts.port
    proxy = Proxy(parts.hostname, parts.port)
    through = url.replace(f":{parts.port}/", f":{proxy.port}/")
    added = "&".join(f"{name}={value}" for name, value in parameters.items())
    return (f"{through}{'&' if '?' in through else '?'}{added}" if added else through), proxy

"""A client of an HTTP API whose requests stay with its host, and whose answers end.

requests follows a redirect to another host with every header but `Authorization`, and dlt's paginators follow `next`
links with all of them, so an API could send a key anywhere. Neither bounds how long an answer may take in all, how
large it is, nor (dlt 1.31: five times 300 seconds for each page) how long a server may ask to be waited for.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass, field
from email.utils import mktime_tz, parsedate_tz
from inspect import getgeneratorlocals, isgenerator
from typing import Any, TypeVar
from urllib.parse import urljoin, urlsplit

from dbt_bridge.arrow.endless import name_request
from dbt_bridge.errors import OriginError, UsageError, scrubbed
from dbt_bridge.nouns.quantities import format_bytes
from dbt_bridge.python_models.json_page import read_json

_T = TypeVar("_T")
_PORTS = {"http": 80, "https": 443}
_CHUNK = 8192


@dataclass(frozen=True, slots=True)
class Limits:
    """What an answer may take.

    Attributes:
        page_bytes: its size, unpacked.
        patience: seconds without an answer, tries again included.
        least_rate, after: bytes a second that a body brings at least, once it takes longer than so many seconds.
        longest_pause: seconds that a server may ask to be waited for.
    """

    page_bytes: int = 128 << 20
    patience: float = 100.0
    least_rate: int = 1000
    after: float = 60.0
    longest_pause: float = 300.0


def guard_client(client: Any, hosts: Iterable[str] = (), *, limits: Limits | None = None) -> Any:
    """Keep a client's requests with the host of its `base_url`, and bound its answers.

    `api_to_df` and `transfer` do it by themselves for what `client.paginate()` gives; a generator or dlt resource of
    one's own passes its client through this.

    Args:
        client: dlt's `RESTClient`, or what else has `base_url` and `session` as that has them.
        hosts: others that redirects and links may lead to, with all headers and keys: `files.example.com`, or with a
            port `files.example.com:8443`.
        limits: other bounds.

    Returns:
        The same client.

    Raises:
        UsageError: it is no such client; or, from its requests: a redirect or link leads to another host.
        OriginError (from its requests): an answer takes too long, is too large, or is to be waited for too long.
        TypeRefused (from its answers): a value cannot be kept; the record is named.
    """
    if not _is_client(client):
        raise UsageError(
            f"guard_client: a {type(client).__name__} is no client with `base_url` and `session`",
            mend="pass dlt.sources.helpers.rest_client.RESTClient(base_url=...)",
        )
    session = client.session
    inner = session.guarded if isinstance(session, _GuardedSession) else session
    client.session = _GuardedSession(inner, client.base_url, frozenset(map(str.lower, hosts)), limits or Limits())
    return client


def guard_pages(data: Any) -> Any:
    """The same data; where it is what a client's `paginate()` gave, that client is guarded unless it is already."""
    owner = getgeneratorlocals(data).get("self") if isgenerator(data) else None
    if owner is not None and _is_client(owner) and not isinstance(owner.session, _GuardedSession):
        guard_client(owner)
    return data


def _is_client(client: Any) -> bool:
    return isinstance(getattr(client, "base_url", None), str) and hasattr(getattr(client, "session", None), "send")


class _GuardedSession:
    """A `requests.Session` in its place, all of whose requests pass through `send`."""

    def __init__(self, session: Any, home: str, hosts: frozenset[str], limits: Limits) -> None:
        self.guarded = session
        self._home = home
        self._hosts = hosts
        self._limits = limits

    def __getattr__(self, name: str) -> Any:
        return getattr(self.guarded, name)

    def send(self, request: Any, **how: Any) -> Any:
        """See `requests.Session.send`."""
        if not self._is_allowed(request.url):
            raise self._refuse_host("a link", request.url)
        answer = _Answer(name_request(request), self._limits, self._find_patience(how))

        def look_at(response: Any, **_: Any) -> None:
            if "location" in response.headers and response.is_redirect:
                target = urljoin(response.url, response.headers["location"])
                if not self._is_allowed(target):
                    response.close()
                    raise self._refuse_host("a redirect", target)
            answer.read(response)

        request.hooks = {**request.hooks, "response": [look_at, *request.hooks.get("response", ())]}
        return answer.wait_for(lambda: self.guarded.send(request, **{**how, "stream": True}))

    def _is_allowed(self, url: str) -> bool:
        there, home = urlsplit(url), urlsplit(self._home)
        if there.scheme not in _PORTS or "\\" in there.netloc:  # which some take for the end of the host
            return False
        host, port = there.hostname or "", there.port or _PORTS[there.scheme]
        if host in self._hosts or f"{host}:{port}" in self._hosts:
            return True
        own = home.port or _PORTS.get(home.scheme)
        same = there.scheme == home.scheme and port == own
        upgraded = (home.scheme, own, there.scheme, port) == ("http", 80, "https", 443)
        return host == home.hostname and (same or upgraded)

    def _refuse_host(self, what: str, url: str) -> UsageError:
        there = urlsplit(url)
        host = there.netloc.rpartition("@")[2]
        place = f"{there.scheme}://{host}" if host else f"{there.scheme}:"
        return UsageError(
            f"{what} of the API at {scrubbed(self._home)} leads to {place}, which would get its keys and tokens",
            mend=f"where that host may have them: dbt_bridge.guard_client(client, hosts=[{host!r}])",
        )

    def _find_patience(self, how: dict[str, Any]) -> float:
        """Who sets a longer timeout waits longer."""
        given = how.get("timeout", getattr(self.guarded, "timeout", None))
        parts = given if isinstance(given, tuple) else (given,)
        return max(self._limits.patience, sum(float(part) for part in parts if part) * 1.5)


@dataclass
class _Answer:
    """One request on its way, tries again and redirects included: what has come so far, and how long that took."""

    name: str
    limits: Limits
    patience: float
    _since: float = field(default_factory=time.monotonic)
    _body_since: float | None = None
    _bytes: int = 0
    _response: Any = None
    _is_given_up: bool = False

    def read(self, response: Any) -> None:
        """Called with each response when its headers are there: reads its body, within bounds."""
        self._refuse_long_pause(response)
        self._bytes, self._response, self._body_since = 0, response, time.monotonic()
        chunks = []
        try:
            for chunk in response.iter_content(_CHUNK):
                self._bytes += len(chunk)
                if self._is_given_up:
                    break
                if self._bytes > self.limits.page_bytes:
                    raise OriginError(
                        f"{self.name}: the answer is larger than {format_bytes(self.limits.page_bytes)}",
                        mend="ask for smaller pages: `limit` or `per_page` of the API, or the paginator's page size",
                    )
                chunks.append(chunk)
        except BaseException:
            response.close()
            self._wait_for_headers()  # dlt may try again
            raise
        response._content = b"".join(chunks)
        response._content_consumed = True
        _replace_json(response, self.name)
        retried = response.status_code >= 500 or response.status_code == 429
        self._wait_for_headers(self.limits.longest_pause if retried else 0)

    def _wait_for_headers(self, pause: float = 0) -> None:
        self._since = time.monotonic() + pause
        self._body_since = None  # last: another thread looks at both

    def wait_for(self, work: Callable[[], _T]) -> _T:
        """The work's answer. It is done in a thread, as no timeout of a socket ends what brings a byte now and then."""
        done = threading.Event()
        outcome: list[Callable[[], _T]] = []

        def run() -> None:
            try:
                answer = work()
                outcome.append(lambda: answer)
            except BaseException as error:
                outcome.append(_raiser(error))
            finally:
                done.set()

        threading.Thread(target=copy_context().run, args=(run,), daemon=True, name="dbt-bridge-http").start()
        try:
            while not done.wait(0.2):
                self._check_time()
        except BaseException:
            self._give_up()
            raise
        return outcome[0]()

    def _check_time(self) -> None:
        now, body_since = time.monotonic(), self._body_since
        if body_since is None:
            if now - self._since > self.patience:
                raise OriginError(
                    f"{self.name}: no answer for {self.patience:.0f} seconds",
                    mend="see whether the API is up; where it needs longer, a longer `timeout` in paginate() is kept",
                )
        elif (taken := now - body_since) > self.limits.after and self._bytes < taken * self.limits.least_rate:
            raise OriginError(
                f"{self.name}: in {taken:.0f} seconds {self._bytes} bytes of the answer came, fewer than"
                f" {self.limits.least_rate} a second",
                mend="run it again when the API is faster, or ask for smaller pages",
            )

    def _give_up(self) -> None:
        self._is_given_up = True
        stop = getattr(getattr(self._response, "raw", None), "shutdown", None)  # since urllib3 2.3
        if stop is not None:
            with suppress(ValueError):  # the connection was given back
                stop()

    def _refuse_long_pause(self, response: Any) -> None:
        pause = _parse_pause(response.headers.get("retry-after", ""))
        if pause > self.limits.longest_pause and (response.status_code >= 500 or response.status_code == 429):
            response.close()
            raise OriginError(
                f"{self.name}: the API answered {response.status_code} and asks to come again in {pause:,.0f} seconds,"
                f" and up to {self.limits.longest_pause:.0f} are waited",
                mend="run it again then, or ask for fewer rows",
            )


def _raiser(error: BaseException) -> Callable[[], Any]:
    def again() -> Any:
        raise error

    return again


def _parse_pause(text: str) -> float:
    """Seconds of a Retry-After header (RFC 9110, 10.2.3); 0 where it is none."""
    text = text.strip()
    if text.isascii() and text.isdigit():
        return float(text)
    moment = parsedate_tz(text)
    return 0.0 if moment is None else max(0.0, mktime_tz(moment) - time.time())


def _replace_json(response: Any, where: str) -> None:
    """`json()` reads each value exactly, and once: again where a hook has changed the body or its encoding."""
    guessed = response.encoding
    kept: list[Any] = []

    def read(**_: Any) -> Any:
        body, encoding = response.content, response.encoding
        if not kept or kept[0] is not body or kept[1] != encoding:
            named = encoding != guessed or "charset" in response.headers.get("content-type", "").lower()
            kept[:] = body, encoding, read_json(body, encoding if named else None, where)
        return kept[2]

    response.json = read

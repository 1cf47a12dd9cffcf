"""Clients of APIs on real HTTP servers that lead elsewhere, never end, or send what no type keeps."""

from __future__ import annotations

import gzip
import json
import threading

import pytest
from dlt.sources.helpers.rest_client import RESTClient
from dlt.sources.helpers.rest_client.auth import APIKeyAuth
from hypothesis import given
from hypothesis import strategies as st

from dbt_bridge import api_to_df, guard_client
from dbt_bridge.errors import OriginError, TypeRefused, UsageError
from dbt_bridge.python_models.guarded_client import Limits
from dbt_bridge.python_models.json_page import read_json

KEY = APIKeyAuth(name="X-API-Key", api_key="canary-key")


def send(handler, body=b"[]", status=200, **headers):
    handler.send_response(status)
    for name, value in {"Content_Length": len(body), **headers}.items():
        handler.send_header(name.replace("_", "-"), str(value))
    handler.end_headers()
    handler.wfile.write(body)


@pytest.fixture
def elsewhere(endpoint):
    """Another server, and the keys that reached it."""
    keys = []

    def answer(handler):
        keys.append(handler.headers["X-API-Key"])
        send(handler, b'[{"id": 2}]')

    return endpoint(answer), keys


@pytest.mark.parametrize("lead", ["redirect", "link"])
def test_no_key_follows_to_another_host_unless_it_is_allowed_by_name(endpoint, elsewhere, lead):
    there, keys = elsewhere

    def answer(handler):
        if lead == "redirect":
            send(handler, b"", 302, Location=f"{there}/take")
        else:
            send(handler, b'[{"id": 1}]', Link=f'<{there}/take>; rel="next"')

    here = endpoint(answer)
    with pytest.raises(UsageError, match=f"leads to {there}") as refused:
        api_to_df(RESTClient(here, auth=KEY).paginate("/"))
    assert keys == [] and "canary-key" not in str(refused.value)
    host = there.partition("//")[2]
    assert f"hosts=[{host!r}]" in refused.value.mend
    client = guard_client(RESTClient(here, auth=KEY), hosts=[host])
    assert list(api_to_df(client.paginate("/"))["id"]) == ([2] if lead == "redirect" else [1, 2])
    assert keys == ["canary-key"]


def test_a_redirect_to_the_same_host_is_followed_and_one_to_a_file_is_not(endpoint):
    def answer(handler):
        if handler.path == "/old":
            send(handler, b"", 301, Location="/new")
        elif handler.path == "/file":
            send(handler, b"", 302, Location="file:///etc/passwd")
        elif handler.path == "/split":
            send(handler, b"", 302, Location=here.replace("//", "//elsewhere.example\\@"))
        else:
            send(handler, b'[{"id": 1}]')

    here = endpoint(answer)
    assert len(api_to_df(RESTClient(here).paginate("/old"))) == 1
    with pytest.raises(UsageError, match="leads to file:"):
        api_to_df(RESTClient(here).paginate("/file"))
    with pytest.raises(UsageError, match="leads to http://"):
        api_to_df(RESTClient(here).paginate("/split"))


def test_an_answer_is_bounded_in_size_as_it_is_unpacked(endpoint):
    body = gzip.compress(json.dumps([{"text": "x" * 1_000_000}]).encode())
    here = endpoint(lambda handler: send(handler, body, Content_Encoding="gzip"))
    client = guard_client(RESTClient(here), limits=Limits(page_bytes=100_000))
    with pytest.raises(OriginError, match="larger than"):
        api_to_df(client.paginate("/"))
    assert len(api_to_df(guard_client(client).paginate("/"))) == 1


def test_an_answer_that_never_ends_or_begins_is_given_up(endpoint):
    over = threading.Event()

    def answer(handler):
        if handler.path == "/body":
            handler.send_response(200)
            handler.send_header("Content-Length", "1000")
            handler.end_headers()
            handler.wfile.write(b"[")
        over.wait()

    here = endpoint(answer)
    client = guard_client(RESTClient(here), limits=Limits(after=0.1, patience=600))
    with pytest.raises(OriginError, match="bytes of the answer came"):
        api_to_df(client.paginate("/body"))
    client.session._limits = Limits(patience=0.1)
    client.session.guarded.timeout = None
    with pytest.raises(OriginError, match="no answer"):
        api_to_df(client.paginate("/"))
    over.set()


@pytest.mark.parametrize("until", ["31536000", "Fri, 31 Dec 2100 23:59:59 GMT"])
def test_a_server_that_asks_to_come_again_in_a_year_is_not_waited_for(endpoint, until):
    here = endpoint(lambda handler: send(handler, b"{}", 429, Retry_After=until))
    with pytest.raises(OriginError, match=r"answered 429 and asks to come again in [\d,]{9,} seconds"):
        api_to_df(RESTClient(here).paginate("/"))


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (b"1e400", r"1e400 at \$\.data\[1\]\.n\[0\] of the record with id 7 is beyond what a double keeps"),
        (b"1e-99999999999999999999", "1e-99999999999999999999 at .* is beyond"),
        (b"0.1234567890123456789012345", r"at \$\.data\[1\]\.n\[0\] of the record with id 7 is beyond"),
        (b"12345678901234.567", "beyond what a double keeps"),
        (b"9" * 5000, "with id 7 has more than 38 digits"),
        (b"NaN", "with id 7 is no number of JSON"),
        (b"[" * 100_000 + b"]" * 100_000, "record 2 is nested more than 500 levels deep"),
    ],
)
def test_what_no_type_keeps_is_refused_with_its_record(value, told):
    with pytest.raises(TypeRefused, match=told) as refused:
        read_json(b'{"data": [{"id": 6}, {"id": 7, "n": [' + value + b"]}]}", None, "GET /")
    assert len(str(refused.value)) < 300


def test_a_number_whose_place_a_later_one_has_taken_is_not_looked_at():
    assert read_json(b'{"n": 1e400, "n": 1}', None, "GET /") == {"n": 1}


@given(st.floats(allow_nan=False, allow_infinity=False), st.integers(-(10**37), 10**37))
def test_numbers_of_doubles_and_integers_are_kept_however_they_are_printed(number, whole):
    printed = [repr(number), f"{number:.17g}", f"{number:.25e}"]
    (*numbers, last) = read_json(f"[{', '.join(printed)}, {whole}]".encode(), None, "GET /")
    assert [float(n) for n in numbers] == [number] * 3 and last == whole


@pytest.mark.parametrize("body", ['[{"a": "é"}]'.encode("utf-16"), '\ufeff[{"a": "é"}]'.encode()])
def test_json_says_by_its_first_bytes_how_it_is_written(endpoint, body):
    here = endpoint(lambda handler: send(handler, body, Content_Type="application/json"))
    assert list(api_to_df(RESTClient(here).paginate("/"))["a"]) == ["é"]


def shorten(response, *_, **__):
    response._content = json.dumps([row for row in response.json() if row["id"] != "é"]).encode()


def name_encoding(response, *_, **__):
    response.encoding = "latin-1"


@pytest.mark.parametrize(
    ("hook", "encoding", "found"), [(shorten, "utf-8", ["z"]), (name_encoding, "latin-1", ["é", "z"])]
)
def test_what_a_hook_makes_of_an_answer_is_what_is_read(endpoint, hook, encoding, found):
    body = '[{"id": "é"}, {"id": "z"}]'.encode(encoding)
    here = endpoint(lambda handler: send(handler, body, Content_Type="application/json"))
    pages = RESTClient(here).paginate("/", hooks={"response": [hook]})
    assert list(api_to_df(pages)["id"]) == found

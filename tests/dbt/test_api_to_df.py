"""`api_to_df` on a real HTTP server: pages, a bearer token, 429 with Retry-After, 500, nested JSON."""

from __future__ import annotations

import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import duckdb
import pyarrow as pa
import pytest
from dlt.sources.helpers.rest_client import RESTClient
from dlt.sources.helpers.rest_client.auth import BearerTokenAuth
from dlt.sources.helpers.rest_client.paginators import JSONLinkPaginator, JSONResponseCursorPaginator, OffsetPaginator

from dbt_bridge import api_to_df
from dbt_bridge.errors import BridgeError, TypeRefused, UsageError

PAGES = {
    1: [{"id": 1, "address": {"city": "Köln"}, "tags": ["a"]}, {"id": 2, "address": None, "tags": []}],
    2: [{"id": None, "address": {"city": None, "zip": "50667"}, "tags": ["b", "c"]}],
}


class Api(BaseHTTPRequestHandler):
    requests: Counter

    def do_GET(self):
        page = int(self.path.rsplit("=", 1)[-1]) if "=" in self.path else 1
        self.requests[page] += 1
        if self.headers["Authorization"] != "Bearer right":
            self._answer(401, {})
        elif page == 1 and self.requests[page] == 1:
            self._answer(429, {}, {"Retry-After": "0"})
        elif page == 2 and self.requests[page] == 1:
            self._answer(500, {})
        else:
            following = (
                f"http://127.0.0.1:{self.server.server_port}/users?page={page + 1}" if page + 1 in PAGES else None
            )
            self._answer(200, {"data": PAGES[page], "next": following})

    def _answer(self, status, body, headers=()):
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def api():
    handler = type("Handler", (Api,), {"requests": Counter()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def pages(api, token="right"):
    client = RESTClient(api, auth=BearerTokenAuth(token), paginator=JSONLinkPaginator("next"), data_selector="data")
    return client.paginate("/users")


def test_pages_become_rows_after_the_server_said_429_and_500(api):
    frame = api_to_df(pages(api))
    assert len(frame) == 3
    assert frame["address"][0]["city"] == "Köln"
    landed = duckdb.sql("SELECT id, address.zip, tags[1], typeof(id) FROM frame").fetchall()
    assert landed == [(1, None, "a", "BIGINT"), (2, None, None, "BIGINT"), (None, "50667", "b", "BIGINT")]


def test_a_wrong_token_raises_without_telling_it(api):
    with pytest.raises(Exception, match="401") as raised:
        api_to_df(pages(api, "canary-token"))
    assert "canary-token" not in str(raised.value)


def test_nothing_is_an_empty_frame_with_the_columns_that_are_asked_for_and_refused_without():
    with pytest.raises(UsageError, match="no row came") as refused:
        api_to_df(iter([]))
    assert "schema=pa.schema" in refused.value.mend
    frame = api_to_df([[]], pa.schema({"id": pa.int64()}))
    assert list(frame.columns) == ["id"]
    assert duckdb.sql("SELECT id FROM frame").fetchall() == []


def test_shapes_that_no_struct_holds_are_json_text():
    frame = api_to_df([{"x": {"a": 1}}, {"x": "text"}, {"x": {"a": "b"}}])
    assert [json.loads(text) for text in frame["x"]] == [{"a": 1}, "text", {"a": "b"}]


@pytest.mark.parametrize(
    ("status", "kind", "body", "said"),
    [
        (204, "application/json", b"", "without content"),
        (200, "text/html", b"<html>log in</html>", "answered with HTML: '<html>log in"),
        (200, "application/json", b'[{"id": 1},', "text that is no JSON"),
        (401, "application/json", b"{}", "401"),
    ],
)
def test_an_answer_that_is_no_rows_is_one_sentence_without_secrets(endpoint, status, kind, body, said):
    def answer(handler):
        handler.send_response(status)
        handler.send_header("Content-Type", kind)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    client = RESTClient(endpoint(answer))
    with pytest.raises(BridgeError) as refused:
        api_to_df(client.paginate("/rows", params={"api_key": "S3CRET"}))
    assert said in str(refused.value) and "S3CRET" not in str(refused.value)


def send_json(handler, value):
    body = json.dumps(value).encode()
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


@pytest.mark.parametrize("circle", [1, 2, 7])
@pytest.mark.parametrize("rows", [1, 50])
def test_a_cursor_that_comes_again_is_named(endpoint, circle, rows):
    """Also where each page's rows are the same, which alone would be no proof, and in circles of several pages."""

    def answer(handler):
        page = int(handler.path.partition("cursor=")[2] or 0)
        send_json(handler, {"data": [{"v": "x"}] * rows, "next": str((page + 1) % circle)})

    paginator = JSONResponseCursorPaginator(cursor_path="next", cursor_param="cursor")
    client = RESTClient(endpoint(answer), paginator=paginator, data_selector="data")
    with pytest.raises(UsageError, match=r"page \d+ .* page \d+ .*would never end"):
        api_to_df(client.paginate("/rows", params={"token": "S3CRET"}))


def test_a_server_that_takes_no_notice_of_the_offset_is_named(endpoint):
    rows = [{"id": number} for number in range(20)]
    client = RESTClient(
        endpoint(lambda handler: send_json(handler, rows)), paginator=OffsetPaginator(limit=20, total_path=None)
    )
    with pytest.raises(UsageError, match="page 2 has the same rows as page 1"):
        api_to_df(client.paginate("/rows"))


def test_pages_without_rows_end_too(endpoint):
    def answer(handler):
        page = int(handler.path.partition("cursor=")[2] or 0)
        send_json(handler, {"data": [], "next": str(page + 1)})

    paginator = JSONResponseCursorPaginator(cursor_path="next", cursor_param="cursor")
    client = RESTClient(endpoint(answer), paginator=paginator, data_selector="data")
    with pytest.raises(UsageError, match="1000 pages without a row"):
        api_to_df(client.paginate("/rows"))


def test_rows_of_a_resource_that_come_in_circles_end_too():
    import dlt

    @dlt.resource
    def loop():
        while True:
            yield [{"id": number} for number in range(1000)]

    with pytest.raises(UsageError, match="the same 1000 rows come again and again"):
        api_to_df(loop)


def test_rows_may_be_alike():
    assert len(api_to_df({"v": 1} for _ in range(150_000) if True)) == 150_000


def test_names_that_are_one_to_the_warehouse_are_refused():
    for rows in ([{"id": 1, "ID": 2}], [{"id": 1, "Name": "a"}, {"id": 2, "name": "b"}]):
        with pytest.raises(UsageError, match="are one name to DuckDB"):
            api_to_df(rows)


def test_what_was_never_there_is_text_at_every_depth():
    frame = api_to_df([{"id": 1, "note": None, "in": {"tags": [], "note": None}}])
    assert len(frame) == 1
    assert duckdb.sql('SELECT typeof(note), typeof("in") FROM frame').fetchall() == [
        ("VARCHAR", "STRUCT(tags VARCHAR[], note VARCHAR)")
    ]


def test_nanoseconds_are_kept_or_refused():
    pandas = pytest.importorskip("pandas")
    moment = pandas.Timestamp("2026-01-01T00:00:00.123456789")
    frame = api_to_df([{"v": moment}])
    assert len(frame) == 1
    assert duckdb.sql("SELECT CAST(v AS VARCHAR) FROM frame").fetchall() == [("2026-01-01 00:00:00.123456789",)]
    for value in (moment.tz_localize("UTC"), pandas.Timedelta("1ns")):
        with pytest.raises(TypeRefused, match="nanoseconds"):
            api_to_df([{"v": value}])
        with pytest.raises(TypeRefused, match="nanoseconds"):
            api_to_df(pandas.DataFrame({"v": [value]}))


def test_text_among_numbers_is_refused():
    with pytest.raises(TypeRefused, match="column 'id'"):
        api_to_df([{"id": 1}, {"id": "one"}])


def test_a_source_of_several_resources_is_not_one_frame():
    import dlt

    @dlt.source
    def two():
        return [dlt.resource([{"id": 1}], name=name) for name in "ab"]

    with pytest.raises(UsageError, match="2 resources: a, b"):
        api_to_df(two())
    assert len(api_to_df(two().a)) == 1

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
from dlt.sources.helpers.rest_client.paginators import JSONLinkPaginator

from dbt_bridge import api_to_df
from dbt_bridge.errors import TypeRefused, UsageError

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


def test_nothing_is_an_empty_frame_with_the_columns_that_are_asked_for():
    assert len(api_to_df(iter([]))) == 0
    frame = api_to_df([[]], pa.schema({"id": pa.int64()}))
    assert list(frame.columns) == ["id"]
    assert duckdb.sql("SELECT id FROM frame").fetchall() == []


def test_shapes_that_no_struct_holds_are_json_text():
    frame = api_to_df([{"x": {"a": 1}}, {"x": "text"}, {"x": {"a": "b"}}])
    assert [json.loads(text) for text in frame["x"]] == [{"a": 1}, "text", {"a": "b"}]


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

"""What real servers sent is decoded to what happened: recordings of several versions, and the test's own server.

Each recording holds the messages that `STORY` leaves in a slot, as lines of hexadecimal digits. To record another
server (wal_level = logical, superuser, an empty database that is thrown away afterwards):

    python tests/connectors/postgres/changes/test_pgoutput.py postgresql://... RECORDED_FOLDER/
"""

from __future__ import annotations

import gzip
import re
import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from tests.connectors.postgres.changes.runs import join_messages

from dbt_bridge.connectors.postgres.changes.messages import BINARY, NULL, UNCHANGED, Cells, Decoded, Rows, Truncation
from dbt_bridge.connectors.postgres.changes.pgoutput.decoder import Decoder
from dbt_bridge.connectors.postgres.wire.relation import Relation
from dbt_bridge.demo.postgres import Server
from dbt_bridge.errors import OriginError

RECORDED = Path(__file__).parent / "recorded"
LONG, OTHER = "x" * 3000, "y" * 3000  # too long for a page: stored out of line
TOASTED = "…"  # how the tests write a value that was not sent because it did not change

STORY = (
    # an insert of each kind of value, and a transaction that rolls back in part
    "CREATE TABLE items (id int PRIMARY KEY, name text, body text, flag bool)",
    "ALTER TABLE items ALTER body SET STORAGE EXTERNAL",
    "INSERT INTO items VALUES (1, 'one', repeat('x', 3000), true), (2, NULL, '', NULL)",
    "BEGIN; INSERT INTO items VALUES (3, 'three', 'c', false); SAVEPOINT s; DELETE FROM items; ROLLBACK TO s; COMMIT",
    # updates: plain with an unchanged long value, of the key, of the key with an unchanged long value; deletes
    "UPDATE items SET name = 'uno' WHERE id = 1",
    "UPDATE items SET id = 20 WHERE id = 2",
    "UPDATE items SET id = 10 WHERE id = 1",
    "DELETE FROM items WHERE id = 3",
    # replica identity full
    "CREATE TABLE whole (id int, name text, body text)",
    "ALTER TABLE whole ALTER body SET STORAGE EXTERNAL; ALTER TABLE whole REPLICA IDENTITY FULL",
    "INSERT INTO whole VALUES (1, 'one', repeat('x', 3000)), (NULL, NULL, NULL)",
    "UPDATE whole SET name = 'uno' WHERE id = 1",
    "UPDATE whole SET body = repeat('y', 3000) WHERE id = 1",
    "DELETE FROM whole WHERE id IS NULL",
    # replica identity index, with a long value in the index's own column
    "CREATE TABLE indexed (id int, code text NOT NULL, body text)",
    "ALTER TABLE indexed ALTER body SET STORAGE EXTERNAL",
    "CREATE UNIQUE INDEX by_code ON indexed (code); ALTER TABLE indexed REPLICA IDENTITY USING INDEX by_code",
    "INSERT INTO indexed VALUES (1, 'a', repeat('x', 3000))",
    "UPDATE indexed SET id = 2",
    "UPDATE indexed SET code = 'b'",
    "DELETE FROM indexed",
    # no replica identity
    "CREATE TABLE lines (line text); ALTER TABLE lines REPLICA IDENTITY NOTHING",
    "INSERT INTO lines VALUES ('first'), ('second')",
    # columns come, go and change in mid-stream
    "CREATE TABLE shapes (id int PRIMARY KEY, a text)",
    "INSERT INTO shapes VALUES (1, 'a')",
    "ALTER TABLE shapes ADD b text DEFAULT 'new'; INSERT INTO shapes VALUES (2, 'a', 'b')",
    "ALTER TABLE shapes RENAME a TO c; INSERT INTO shapes VALUES (3, 'c', 'b')",
    "ALTER TABLE shapes DROP c; INSERT INTO shapes VALUES (4, 'b')",
    "ALTER TABLE shapes ALTER b TYPE varchar(7); INSERT INTO shapes VALUES (5, 'b')",
    "ALTER TABLE shapes RENAME TO forms; INSERT INTO forms VALUES (6, 'b')",
    # truncations: of one in mid-transaction, and of tables that refer to each other
    "CREATE TABLE parents (id int PRIMARY KEY); CREATE TABLE children (id int PRIMARY KEY, p int REFERENCES parents)",
    "BEGIN; INSERT INTO parents VALUES (1); TRUNCATE parents CASCADE; INSERT INTO parents VALUES (2); COMMIT",
    "INSERT INTO children VALUES (7, 2); TRUNCATE parents, children RESTART IDENTITY; INSERT INTO parents VALUES (3)",
    # partitions under their root; of the second pair, the root's identity is FULL and the partition's is not
    "CREATE TABLE parts (id int PRIMARY KEY, v text) PARTITION BY RANGE (id)",
    "CREATE TABLE parts_low PARTITION OF parts FOR VALUES FROM (0) TO (10)",
    "CREATE TABLE parts_high PARTITION OF parts FOR VALUES FROM (10) TO (20)",
    "INSERT INTO parts VALUES (1, 'low'), (11, 'high'); UPDATE parts SET id = 12 WHERE id = 1",
    "CREATE TABLE roots (id int PRIMARY KEY, v text, body text) PARTITION BY RANGE (id)",
    "ALTER TABLE roots ALTER body SET STORAGE EXTERNAL; ALTER TABLE roots REPLICA IDENTITY FULL",
    "CREATE TABLE roots_low PARTITION OF roots FOR VALUES FROM (0) TO (10)",
    "ALTER TABLE roots_low REPLICA IDENTITY DEFAULT; ALTER TABLE roots_low ALTER body SET STORAGE EXTERNAL",
    "INSERT INTO roots VALUES (1, 'a', repeat('x', 3000)); UPDATE roots SET v = 'b'; UPDATE roots SET id = 2",
    # types of their own, generated columns, quoted names, no columns at all
    "CREATE TYPE mood AS ENUM ('sad', 'happy'); CREATE DOMAIN short AS text",
    'CREATE TABLE "Moods é" (id int PRIMARY KEY, "the mood" mood, s short, g int GENERATED ALWAYS AS (id * 2) STORED)',
    """INSERT INTO "Moods é" VALUES (1, 'happy', 's')""",
    "CREATE TABLE nothing (); INSERT INTO nothing DEFAULT VALUES",
    # a transaction with nothing but a message, a message outside, and a transaction of another origin
    "SELECT pg_logical_emit_message(true, 'dbt-bridge', 'inside'), pg_logical_emit_message(false, 'dbt-bridge', '')",
    "SELECT pg_replication_origin_create('elsewhere'), pg_replication_origin_session_setup('elsewhere')",
    "INSERT INTO lines VALUES ('from elsewhere')",
    "SELECT pg_replication_origin_session_reset()",
)


def record(connection: psycopg.Connection, *, binary: bool) -> list[bytes]:
    """The messages of the story, told in the connection's empty database."""
    connection.execute("CREATE PUBLICATION p FOR ALL TABLES WITH (publish_via_partition_root = true)")
    connection.execute("SELECT pg_create_logical_replication_slot('recording', 'pgoutput')")
    try:
        for statements in STORY:
            connection.execute(statements.encode())
        peek = """
            SELECT data FROM pg_logical_slot_peek_binary_changes('recording', NULL, NULL, 'proto_version', '1',
                'publication_names', 'p', 'messages', 'true', 'binary', %s)
        """
        return [row[0] for row in connection.execute(peek, [str(binary).lower()])]
    finally:
        connection.execute("SELECT pg_drop_replication_slot('recording')")
        connection.execute("SELECT pg_replication_origin_drop(roname) FROM pg_replication_origin")


@pytest.fixture(scope="module")
def live(server: Server) -> Callable[[str], list[bytes]]:
    def recorded(form: str) -> list[bytes]:
        with psycopg.connect(server.url(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE recording_{form}".encode())
        with psycopg.connect(server.url(f"recording_{form}"), autocommit=True) as connection:
            return record(connection, binary=form == "binary")

    return recorded


@pytest.fixture(scope="module", params=["live-text", "live-binary", *sorted(f.name for f in RECORDED.glob("*.hex.gz"))])
def chunks(request: pytest.FixtureRequest, live: Callable[[str], list[bytes]]) -> list[bytes]:
    """The messages of the story, by one server in one form."""
    if request.param.startswith("live-"):
        return live(request.param.removeprefix("live-"))
    return read(RECORDED / request.param)


def read(file: Path) -> list[bytes]:
    return [bytes.fromhex(line) for line in gzip.decompress(file.read_bytes()).decode().split()]


@pytest.fixture(scope="module")
def decoded(chunks: list[bytes]) -> Decoded:
    return Decoder().decode(join_messages(chunks))


def test_a_new_row_has_all_its_values_and_what_a_savepoint_took_back_is_never_seen(decoded: Decoded) -> None:
    assert told(decoded, "items")[:3] == [
        "I id=1 name=one body=LONG flag=true",
        "I id=2 name=NULL body= flag=NULL",
        "I id=3 name=three body=c flag=false",
    ]


def test_an_unchanged_long_value_is_said_to_be_unchanged(decoded: Decoded) -> None:
    assert told(decoded, "items")[3] == f"U id=1 name=uno body={TOASTED} flag=true"


def test_an_update_of_the_key_tells_the_old_key_and_a_delete_only_the_key(decoded: Decoded) -> None:
    assert told(decoded, "items")[4:] == [
        "U id=20 name=NULL body= flag=NULL <- id=2 name=NULL body=NULL flag=NULL",
        f"U id=10 name=uno body={TOASTED} flag=true <- id=1 name=NULL body=NULL flag=NULL",
        "D id=3 name=NULL body=NULL flag=NULL",
    ]


def test_under_replica_identity_full_no_value_is_missing(decoded: Decoded) -> None:
    assert told(decoded, "whole") == [
        "I id=1 name=one body=LONG",
        "I id=NULL name=NULL body=NULL",
        "U id=1 name=uno body=LONG <- id=1 name=one body=LONG",
        "U id=1 name=uno body=OTHER <- id=1 name=uno body=LONG",
        "D id=NULL name=NULL body=NULL",
    ]


def test_replica_identity_index_tells_the_columns_of_that_index(decoded: Decoded) -> None:
    assert told(decoded, "indexed") == [
        "I id=1 code=a body=LONG",
        f"U id=2 code=a body={TOASTED}",
        f"U id=2 code=b body={TOASTED} <- id=NULL code=a body=NULL",
        "D id=NULL code=b body=NULL",
    ]
    assert [c.name for c in relation(decoded, "indexed").columns if c.is_key] == ["code"]


def test_the_replica_identity_is_known(decoded: Decoded) -> None:
    identities = {name: relation(decoded, name).identity for name in ("items", "lines", "whole", "indexed")}
    assert identities == {"items": "d", "lines": "n", "whole": "f", "indexed": "i"}


def test_rows_before_and_after_a_change_of_columns_are_told_apart(decoded: Decoded) -> None:
    oid = relation(decoded, "shapes").oid
    assert history([decoded], oid) == [
        "shapes(id int4, a text)",
        "I id=1 a=a",
        "shapes(id int4, a text, b text)",
        "I id=2 a=a b=b",
        "shapes(id int4, c text, b text)",
        "I id=3 c=c b=b",
        "shapes(id int4, b text)",
        "I id=4 b=b",
        "shapes(id int4, b varchar(7))",
        "I id=5 b=b",
        "forms(id int4, b varchar(7))",
        "I id=6 b=b",
    ]


def test_rows_before_and_after_a_truncation_are_told_apart(decoded: Decoded) -> None:
    assert told(decoded, "parents") == ["I id=1", "TRUNCATE", "I id=2", "TRUNCATE", "I id=3"]
    assert told(decoded, "children") == ["TRUNCATE", "I id=7 p=2", "TRUNCATE"]


def test_a_truncation_happens_in_its_transaction(decoded: Decoded) -> None:
    both = {relation(decoded, name).oid for name in ("parents", "children")}
    first, second = (item for item in decoded.items if isinstance(item, Truncation))
    assert set(first.oids) == set(second.oids) == both
    rows = [item for item in decoded.items if isinstance(item, Rows) and item.relation.name.name == "parents"]
    assert [first.lsn, first.lsn, second.lsn] == [int(r.lsn[0]) for r in rows]
    assert [first.committed_at, first.committed_at, second.committed_at] == [int(r.committed_at[0]) for r in rows]


def test_partitions_speak_as_their_root(decoded: Decoded) -> None:
    assert told(decoded, "parts") == ["I id=1 v=low", "I id=11 v=high", "D id=1 v=NULL", "I id=12 v=low"]
    assert told(decoded, "parts_low") == told(decoded, "parts_high") == []
    names = {r.oid: r.name.name for r in of_kind(decoded, Relation)}
    announced = {(names[a.root], a.name, names[a.oid]) for a in decoded.announced}
    assert announced >= {("parts", "parts_low", "parts_low"), ("parts", "parts_high", "parts_high")}
    assert {root for root, _, _ in announced} == {"parts", "roots", "parents"}, "the last were truncated with children"
    commits = {int(lsn) for rows in of_kind(decoded, Rows) if rows.relation.name.name == "parts" for lsn in rows.lsn}
    assert {a.lsn for a in decoded.announced if names[a.root] == "parts"} <= commits


def test_a_root_that_says_full_over_a_partition_that_does_not_leaves_values_unchanged(decoded: Decoded) -> None:
    """The old tuple's NULL is not the value; only a caller that knows the partitions' identities can tell."""
    assert relation(decoded, "roots").identity == "f"
    assert told(decoded, "roots") == [
        "I id=1 v=a body=LONG",
        f"U id=1 v=b body={TOASTED}",
        f"U id=2 v=b body={TOASTED} <- id=1 v=NULL body=NULL",
    ]


def test_names_and_types_of_any_kind(decoded: Decoded) -> None:
    assert told(decoded, "Moods é") == ["I id=1 the mood=happy s=s"]
    assert told(decoded, "nothing") == ["I"]


def test_rows_of_another_replication_origin_are_rows(decoded: Decoded) -> None:
    assert told(decoded, "lines") == ["I line=first", "I line=second", "I line=from elsewhere"]


def test_all_of_the_story_ends_at_its_last_commit(decoded: Decoded, chunks: list[bytes]) -> None:
    commits = [c for c in chunks if c[:1] == b"C"]
    lsn, end, at = struct.unpack(">qqq", commits[-1][2:])
    assert (decoded.upto, decoded.committed_at - at, decoded.transactions) == (end, 946_684_800_000_000, len(commits))
    assert not decoded.is_open
    last = next(i for i in reversed(decoded.items) if isinstance(i, Rows) and i.relation.name.name == "lines")
    assert (int(last.lsn[-1]), int(last.committed_at[-1])) == (lsn, decoded.committed_at)


def test_the_decoder_keeps_the_relations_that_it_was_told(chunks: list[bytes]) -> None:
    decoder = Decoder()
    decoder.decode(join_messages(chunks))
    now = {r.name.name: [c.name for c in r.columns] for r in decoder.relations.values()}
    assert now["forms"] == ["id", "b"]
    assert "shapes" not in now


def test_cut_anywhere_into_two_runs_the_story_is_the_same(decoded: Decoded, chunks: list[bytes]) -> None:
    oids = {r.oid for r in of_kind(decoded, Relation)}
    whole = [history([decoded], oid) for oid in oids]
    for cut in range(len(chunks) + 1):
        decoder = Decoder()
        parts = [decoder.decode(join_messages(part)) for part in (chunks[:cut], chunks[cut:])]
        assert [history(parts, oid) for oid in oids] == whole
        assert parts[0].is_open == (sum(c[:1] in (b"B", b"C") for c in chunks[:cut]) % 2 == 1)
        assert sum(part.transactions for part in parts) == decoded.transactions
        assert max(part.upto for part in parts) == decoded.upto
        assert parts[0].announced + parts[1].announced == decoded.announced


def test_a_relation_that_is_described_again_is_told_again_and_splits_nothing() -> None:
    chunks = read(RECORDED / "postgres18-binary.hex.gz")
    of_items, rows = chunks[1], chunks[2:4]
    again = [chunks[0], of_items, rows[0], of_items, rows[1]]
    first, second, changes = Decoder().decode(join_messages(again)).items
    assert first == second
    assert isinstance(changes, Rows)
    assert len(changes) == 2


def test_messages_may_lie_anywhere_in_the_buffer() -> None:
    """As a receiver has them: with headers between them, and behind the transaction ids of a streamed transaction."""
    chunks = read(RECORDED / "postgres18-binary.hex.gz")
    plain = join_messages(chunks)
    buffer, body = b"", []
    for chunk in chunks:
        buffer += b"header" + chunk[:1] + b"xid!"
        body.append(len(buffer))
        buffer += chunk[1:]
    start = np.array(body)
    gaps = replace(plain, buffer=np.frombuffer(buffer, np.uint8), body=start, end=start + (plain.end - plain.body))
    for name in ("items", "whole", "Moods é"):
        assert told(Decoder().decode(gaps), name) == told(Decoder().decode(plain), name)


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda c: [*c[:2], c[2][:-1], *c[3:]], "message 3 .*public.items.* does not end where the message ends"),
        (lambda c: [*c[:2], c[2] + b"n", *c[3:]], "message 3 .*public.items.* does not end where the message ends"),
        (lambda c: [c[0], c[2]], "message 2 .*has not described"),
        (lambda c: c[1:3], "message 2 .*outside of any transaction"),
        (lambda c: [c[0], c[0]], "message 2 .*inside another"),
        (lambda c: [c[0], c[4][:9] + bytes(8) + c[4][17:]], "message 2 .*another transaction"),
        (lambda c: [*c[:2], b"Z" + c[2][1:]], "message 3 .*unknown letter"),
        (lambda c: [*c[:2], b""], "message 3 .*empty"),
        (lambda c: [*c[:2], c[2].replace(b"N\0\4", b"N\0\3")], "message 3 .*public.items.* has not 4 columns"),
        (lambda c: [*c[:2], c[2].replace(b"N\0\4", b"K\0\4")], "message 3 .*public.items.* names no tuple"),
    ],
)
def test_a_damaged_message_is_refused_by_its_number_and_table(
    damage: Callable[[list[bytes]], list[bytes]], what: str
) -> None:
    chunks = read(RECORDED / "postgres18-binary.hex.gz")
    with pytest.raises(OriginError, match=what):
        Decoder().decode(join_messages(damage(chunks)))


def test_after_a_refusal_the_decoder_is_as_before() -> None:
    chunks = read(RECORDED / "postgres18-binary.hex.gz")
    decoder = Decoder()
    decoder.decode(join_messages(chunks[:1]))
    with pytest.raises(OriginError):
        decoder.decode(join_messages([chunks[1], chunks[2][:-1]]))
    assert not decoder.relations
    assert told(decoder.decode(join_messages(chunks[1:])), "items")[0] == "I id=1 name=one body=LONG flag=true"


TYPES = {16: "bool", 23: "int4", 25: "text", 1043: "varchar"}


def of_kind(decoded: Decoded, kind: type) -> list[Any]:
    return [item for item in decoded.items if isinstance(item, kind)]


def relation(decoded: Decoded, name: str) -> Relation:
    return next(r for r in of_kind(decoded, Relation) if r.name.name == name)


def told(decoded: Decoded, table: str) -> list[str]:
    """What happened to a table's rows."""
    events = history([decoded], relation(decoded, table).oid)
    return [e for e in events if not e.startswith(f"{table}(")]


def history(parts: list[Decoded], oid: int) -> list[str]:
    """What happened to a relation; not where it was described again as it was."""
    events: list[str] = []
    shape = ""
    for event in (event for part in parts for item in part.items for event in about(item, oid)):
        if event != shape:
            events.append(event)
        shape = event if re.match(r".*\(.*\)$", event) else shape
    return events


def about(item: Relation | Rows | Truncation, oid: int) -> list[str]:
    if isinstance(item, Truncation):
        return ["TRUNCATE"] if oid in item.oids else []
    if isinstance(item, Rows):
        return list(spoken(item)) if item.relation.oid == oid else []
    columns = ", ".join(
        f"{c.name} {TYPES.get(c.type_oid, '?')}{f'({c.modifier - 4})' if c.modifier > 0 else ''}" for c in item.columns
    )
    return [f"{item.name.name}({columns})"] if item.oid == oid else []


def spoken(rows: Rows) -> Iterator[str]:
    """`I id=1 name=one` for each; behind an arrow the old tuple."""
    before = 0
    for i in range(len(rows)):
        words = [chr(rows.kind[i])]
        words += [f"{c.name}={value(c.type_oid, v, i)}" for c, v in zip(rows.relation.columns, rows.cells, strict=True)]
        if rows.has_before[i]:
            old = zip(rows.relation.columns, rows.before, strict=True)
            words += ["<-", *(f"{c.name}={value(c.type_oid, v, before)}" for c, v in old)]
            before += 1
        yield " ".join(words)


def value(type_oid: int, cells: Cells, i: int) -> str:
    if cells.tag[i] in (NULL, UNCHANGED):
        return "NULL" if cells.tag[i] == NULL else TOASTED
    raw = cells.buffer[cells.start[i] : cells.start[i] + cells.length[i]].tobytes()
    if TYPES.get(type_oid) == "bool":
        return {b"t": "true", b"\1": "true", b"f": "false", b"\0": "false"}[raw]
    if TYPES.get(type_oid) == "int4" and cells.tag[i] == BINARY:
        return str(struct.unpack(">i", raw)[0])
    return {LONG: "LONG", OTHER: "OTHER"}.get(raw.decode(), raw.decode())


if __name__ == "__main__":
    for form in ("text", "binary"):
        with psycopg.connect(sys.argv[1], autocommit=True) as connection:
            connection.execute("CREATE DATABASE recording")
        with psycopg.connect(sys.argv[1], dbname="recording", autocommit=True) as connection:
            lines = "\n".join(m.hex() for m in record(connection, binary=form == "binary"))
            version = connection.info.server_version // 10000
        with psycopg.connect(sys.argv[1], autocommit=True) as connection:
            connection.execute("DROP DATABASE recording")
        target = Path(sys.argv[2]) / f"postgres{version}-{form}.hex.gz"
        target.write_bytes(gzip.compress(lines.encode(), mtime=0))
        print(target, len(lines) // 2, "bytes of messages")

"""Streamed transactions: what waits in files until the commit is given as if the server had waited with it."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.chance import SEED

from dbt_bridge.connectors.postgres.changes import publication
from dbt_bridge.connectors.postgres.changes.messages import Messages
from dbt_bridge.connectors.postgres.changes.slot import Replication
from dbt_bridge.connectors.postgres.changes.spool import Spool
from dbt_bridge.connectors.postgres.changes.stream import ReplicationStream
from dbt_bridge.errors import OriginError
from dbt_bridge.nouns.table import TableName

_LITTLE_MEMORY = "?options=-c%20logical_decoding_work_mem%3D64kB"
_AT_ONCE = "?options=-c%20debug_logical_replication_streaming%3Dimmediate"


@pytest.fixture
def workload(each_database: str) -> Iterator[tuple[str, int, int]]:
    """Large and small transactions at the same time, with savepoints rolled back and released: URL, start and end."""
    seed = SEED
    print(f"seed {seed}")
    chance = random.Random(seed)
    with psycopg.connect(each_database, autocommit=True) as setup:
        setup.execute("CREATE TABLE a (id int PRIMARY KEY, name text)")
        setup.execute("CREATE TABLE b (id int PRIMARY KEY, name text)")
        tables = [TableName("public", "a"), TableName("public", "b")]
        with Replication("shop", each_database) as replication:
            publication.ensure(replication, "spool", tables, [])
            with replication.create_slot("spool") as slot:
                start = slot.consistent_point
            connections = [psycopg.connect(each_database) for _ in range(3)]
            for step in range(120):
                connection = connections[chance.randrange(3)]
                _act(connection, chance, step)
            for connection in connections:
                connection.commit()
                connection.close()
            yield each_database, start, replication.current_lsn()


def _act(connection: psycopg.Connection, chance: random.Random, step: int) -> None:
    table, act, rows = chance.choice("ab"), chance.random(), chance.choice((1, 5, 800))
    first = step * 1000
    insert = f"INSERT INTO {table} SELECT i, 'row ' || i FROM generate_series({first}, {first + rows - 1}) i"  # noqa: S608
    if act < 0.4:
        connection.execute(insert)
    elif act < 0.75:  # a subtransaction with another one in it
        connection.execute("SAVEPOINT outside")
        connection.execute(insert)
        connection.execute("SAVEPOINT inside")
        connection.execute(f"UPDATE {table} SET name = name || '!' WHERE id BETWEEN {first} AND {first + rows}")  # noqa: S608
        if chance.random() < 0.5:
            connection.execute("ROLLBACK TO inside")
        connection.execute("RELEASE inside")
        connection.execute("ROLLBACK TO outside" if chance.random() < 0.5 else "RELEASE outside")
    elif act < 0.8:
        connection.execute(f"DELETE FROM {table} WHERE id BETWEEN {first - 5000} AND {first} AND id % 3 = 0")  # noqa: S608
        connection.commit()
    elif act < 0.95:
        connection.commit()
    else:
        connection.rollback()


def _read(url: str, start: int, upto: int, taken: Callable, spool: Path | None, *, binary: bool = False):
    stream = ReplicationStream(
        "shop", url, "spool", ["spool", "spool_inserts"], start, binary=binary, spool_folder=spool
    )
    with stream:
        transactions = taken(stream, upto).transactions
    return [t for t in transactions if t.changes]  # of one that was streamed and rolled back inside, nothing is left


def test_streamed_transactions_are_given_as_if_they_had_not_been(
    workload: tuple[str, int, int], taken: Callable, tmp_path: Path
) -> None:
    url, start, upto = workload
    expected = _read(url, start, upto, taken, None)
    assert max(len(t.changes) for t in expected) > 500
    with psycopg.connect(url) as connection:
        version = connection.info.server_version
    settings_ = [_LITTLE_MEMORY] + ([_AT_ONCE] if version >= 160000 else [])
    for setting in settings_:
        found = _read(url + setting, start, upto, taken, tmp_path)
        assert found == expected
    assert [path.name for path in tmp_path.iterdir()] == [], "no name leads to what waits"
    if version >= 140000:
        with psycopg.connect(url, autocommit=True) as connection:
            # The server says itself that it streamed, so this test tests something.
            connection.execute("SELECT pg_stat_force_next_flush()") if version >= 150000 else None
            sql = "SELECT stream_txns FROM pg_stat_replication_slots WHERE slot_name = 'spool'"
            assert connection.execute(sql).fetchone()[0] > 0


def test_a_huge_transaction_takes_no_memory(database: str, taken: Callable, tmp_path: Path) -> None:
    """Python's and numpy's, from the stream's start to its end; the transaction is twice as large."""
    rows, limit = 300_000, 120 << 20
    with psycopg.connect(database, autocommit=True) as connection, Replication("shop", database) as replication:
        connection.execute("CREATE TABLE a (id int PRIMARY KEY, name text)")
        publication.ensure(replication, "spool", [TableName("public", "a")], [])
        with replication.create_slot("spool") as slot:
            start = slot.consistent_point
        connection.execute(f"INSERT INTO a SELECT i, repeat('x', 800) FROM generate_series(1, {rows}) i".encode())  # noqa: S608
        upto = replication.current_lsn()
        found = 0
        tracemalloc.start(1)
        try:
            stream = ReplicationStream("shop", database, "spool", ["spool"], start, binary=False, spool_folder=tmp_path)
            with stream:
                run = stream.next(180)
                while run is not None and run.sent < upto:
                    found += int((run.kind == ord("I")).sum())
                    run = stream.next(180)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert found == rows
    assert peak < limit


def test_no_name_leads_to_what_waits_and_nothing_is_left_of_a_killed_process(
    database: str, until: Callable, tmp_path: Path
) -> None:
    """The rows are as the origin sent them: unmasked."""
    with psycopg.connect(database, autocommit=True) as connection, Replication("shop", database) as replication:
        connection.execute("CREATE TABLE a (id int PRIMARY KEY, name text)")
        publication.ensure(replication, "spool", [TableName("public", "a")], [])
        with replication.create_slot("spool") as slot:
            start = slot.consistent_point
        program = (
            "import sys, time; from pathlib import Path\n"
            "from dbt_bridge.connectors.postgres.changes.stream import ReplicationStream\n"
            f"stream = ReplicationStream('shop', {database + _LITTLE_MEMORY!r}, 'spool', ['spool'], {start},"
            f" binary=False, spool_folder=Path({str(tmp_path)!r}))\n"
            "with stream:\n    print('ready', flush=True); time.sleep(600)\n"
        )
        process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout.readline() == "ready\n"
            with psycopg.connect(database) as writer:
                for ending in (writer.rollback, process.kill):
                    writer.execute("INSERT INTO a SELECT i, 'a secret' FROM generate_series(1, 20000) i")
                    replication.current_lsn()
                    until(lambda: _sizes_below(tmp_path, process.pid))
                    assert [path.name for path in tmp_path.rglob("*")] == []
                    ending()
                    if ending == writer.rollback:
                        replication.current_lsn()
                        until(lambda: not _sizes_below(tmp_path, process.pid))
        finally:
            process.kill()
            process.wait()
    assert [path.name for path in tmp_path.rglob("*")] == []


def _sizes_below(folder: Path, pid: int) -> list[int]:
    """Sizes of the files without a name that a process has open on the disk of a folder, and has written to."""
    sizes = []
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            path = str(descriptor.readlink())
            if path.startswith(str(folder)) and path.endswith("(deleted)"):
                sizes.append(descriptor.stat().st_size)
    return [size for size in sizes if size]


def test_the_files_that_an_earlier_version_left_go(tmp_path: Path) -> None:
    """They had names, below a folder with a lock that ended with its process."""
    left = tmp_path / "streamed-of-a-killed-process"
    left.mkdir()
    (left / "lock").touch()
    (left / "7.messages").write_bytes(b"a secret")
    with Spool("shop", tmp_path):
        assert not left.exists()


def test_a_full_disk_is_told_with_the_folder(tmp_path: Path) -> None:
    """The limit on a file's size stands for the disk's: the same call fails in the same way."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Spool("shop", tmp_path) as spool:
        list(spool.unspool(_messages([_stream_start(7, first=True)])))
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
        try:
            with pytest.raises(OriginError, match="cannot wait for its commit in") as raised:
                list(spool.unspool(_messages([b"I" + (7).to_bytes(4, "big") + b"x" * 9000])))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert str(tmp_path) in raised.value.mend


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OriginError, match="cannot wait for its commit in"), Spool("shop", tmp_path / "file"):
        pass


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives folders away")
def test_a_folder_of_another_user_is_not_written_to(tmp_path: Path) -> None:
    """Whoever made it in the folder for everybody's temporary files could read the rows."""
    os.chown(tmp_path, 4242, 4242)
    with pytest.raises(OriginError, match="belongs to another user") as raised, Spool("shop", tmp_path):
        pass
    assert "TMPDIR" in raised.value.mend
    assert not list(tmp_path.iterdir())


def test_a_commit_of_what_was_never_sent_is_refused(tmp_path: Path) -> None:
    """Else a whole transaction would be missing without a word."""
    commit = b"c" + (7).to_bytes(4, "big") + bytes(25)
    with Spool("shop", tmp_path) as spool, pytest.raises(OriginError, match="streamed transaction 7"):
        list(spool.unspool(_messages([commit])))


# Chunks of several transactions in any order, cut into runs at any place, with gaps between the messages.
_messages_of = st.lists(
    st.tuples(st.integers(0, 2), st.lists(st.tuples(st.integers(0, 2), st.binary(max_size=40)), max_size=5)),
    max_size=12,
)


@settings(max_examples=60, deadline=None, print_blob=True)
@given(chunks=_messages_of, cut=st.integers(1, 7), aborted=st.sets(st.integers(0, 2)), plain=st.booleans())
def test_any_chunks_are_put_together_again(tmp_path_factory, chunks, cut, aborted, plain) -> None:
    """Transactions 10, 20, 30, each with subtransactions +0, +1, +2; `aborted` are rolled back at the end."""
    sent, expected, seen = [], {10: [], 20: [], 30: []}, set()
    for top, rows in chunks:
        xid = 10 * (top + 1)
        sent.append(_stream_start(xid, first=xid not in seen))
        seen.add(xid)
        for sub, value in rows:
            sent.append(b"I" + (xid + sub).to_bytes(4, "big") + value)
            if sub == 0 or sub not in aborted:
                expected[xid].append(value)
        sent.append(b"E")
        if plain:
            sent += [b"B" + b"\0" * 20, b"I" + b"plain", b"C" + b"\0" * 25]
    for xid in sorted(seen):
        sent += [b"A" + xid.to_bytes(4, "big") + (xid + sub).to_bytes(4, "big") for sub in aborted if sub]
        tail = b"\0" + (xid * 100).to_bytes(8, "big") + (xid * 100 + 9).to_bytes(8, "big") + (5).to_bytes(8, "big")
        if 0 in aborted and xid == 20:
            sent.append(b"A" + xid.to_bytes(4, "big") * 2)
        else:
            sent.append(b"c" + xid.to_bytes(4, "big") + tail)
    with Spool("shop", tmp_path_factory.mktemp("spool")) as spool:
        runs = [run for at in range(0, len(sent), cut) for run in spool.unspool(_messages(sent[at : at + cut]))]
    found = _inserts(runs)
    plains = found.pop(0, [])
    assert plains == ([b"plain"] * len(chunks) if plain else [])
    gone = {20} if 0 in aborted else set()
    assert found == {xid: expected[xid] for xid in seen - gone}


def _inserts(runs: list[Messages]) -> dict[int, list[bytes]]:
    """What each transaction inserted."""
    found: dict[int, list[bytes]] = {}
    current: list[bytes] | None = None
    for run in runs:
        for kind, start, end in zip(run.kind.tolist(), run.body.tolist(), run.end.tolist(), strict=True):
            body = run.buffer[start:end].tobytes()
            if kind == ord("B"):
                assert current is None
                current = found.setdefault(int.from_bytes(body[16:20], "big"), [])
            elif kind == ord("I"):
                current.append(body)
            else:
                assert kind == ord("C")
                current = None
    return found


def _stream_start(xid: int, *, first: bool) -> bytes:
    return b"S" + xid.to_bytes(4, "big") + bytes([first])


def _messages(parts: list[bytes]) -> Messages:
    """A run as the receiver makes it: a header before each message."""
    framed = [b"w" * 25 + part for part in parts]
    buffer = np.frombuffer(b"".join(framed), np.uint8)
    end = np.cumsum([len(part) for part in framed])
    letter = end - np.array([len(part) for part in parts])
    return Messages(buffer, buffer[letter], letter + 1, end)

"""The decoder by vectors agrees with a plain reader, row by row, on whatever is sent: right, cut, flipped or random.

Both the writer and the reader below were written from the manual's message formats and share no code with the product.
"""

from __future__ import annotations

import gzip
import random
import struct
import tracemalloc
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.connectors.postgres.changes.runs import join_messages

from dbt_bridge.connectors.postgres.changes.messages import Cells, Decoded, Rows
from dbt_bridge.connectors.postgres.changes.pgoutput.decoder import Decoder
from dbt_bridge.connectors.postgres.wire.relation import Relation
from dbt_bridge.errors import OriginError

TO_1970 = 946_684_800_000_000
RECORDED = Path(__file__).parent / "recorded"
Cell = tuple[str, bytes]  # how it was sent (n, u, t, b), and the value
HISTORY = dict[int, list[Any]]  # relation oid -> what happened to it


# --- writing -----------------------------------------------------------------------------------------------------


def begin(lsn: int, at: int = 0, xid: int = 1) -> bytes:
    return b"B" + struct.pack(">qqI", lsn, at, xid)


def commit(lsn: int, end: int, at: int = 0) -> bytes:
    return b"C" + struct.pack(">Bqqq", 0, lsn, end, at)


def relation(oid: int, columns: Sequence[str], identity: str = "d", name: str = "t") -> bytes:
    described = b"".join(
        struct.pack(">B", i == 0) + c.encode() + b"\0" + struct.pack(">Ii", 25, -1) for i, c in enumerate(columns)
    )
    return (
        b"R"
        + struct.pack(">I", oid)
        + b"public\0"
        + name.encode()
        + b"\0"
        + identity.encode()
        + struct.pack(">H", len(columns))
        + described
    )


def truncate(*oids: int, options: int = 0) -> bytes:
    return b"T" + struct.pack(f">IB{len(oids)}I", len(oids), options, *oids)


def tuple_data(cells: Sequence[Cell]) -> bytes:
    parts = [tag.encode() + (struct.pack(">i", len(value)) + value if tag in "tb" else b"") for tag, value in cells]
    return struct.pack(">H", len(cells)) + b"".join(parts)


def insert(oid: int, new: Sequence[Cell]) -> bytes:
    return b"I" + struct.pack(">I", oid) + b"N" + tuple_data(new)


def update(oid: int, new: Sequence[Cell], old: Sequence[Cell] | None = None, mark: str = "K") -> bytes:
    before = b"" if old is None else mark.encode() + tuple_data(old)
    return b"U" + struct.pack(">I", oid) + before + b"N" + tuple_data(new)


def delete(oid: int, old: Sequence[Cell], mark: str = "K") -> bytes:
    return b"D" + struct.pack(">I", oid) + mark.encode() + tuple_data(old)


def logical_message(content: bytes) -> bytes:
    return b"M" + struct.pack(">Bq", 1, 5) + b"prefix\0" + struct.pack(">I", len(content)) + content


ORIGIN = b"O" + struct.pack(">q", 77) + b"elsewhere\0"
TYPE = b"Y" + struct.pack(">I", 4711) + b"public\0mood\0"


# --- reading, one row after the other ----------------------------------------------------------------------------


class Malformed(Exception):
    pass


def need(right: bool) -> None:
    if not right:
        raise Malformed


class Body:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def raw(self, size: int) -> bytes:
        need(0 <= size <= len(self.data) - self.at)
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, form: str) -> int:
        return struct.unpack(">" + form, self.raw(struct.calcsize(">" + form)))[0]

    def text(self) -> str:
        need(b"\0" in self.data[self.at :])
        raw = self.raw(self.data.index(b"\0", self.at) - self.at)
        self.at += 1
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise Malformed from None

    def cells(self, count: int) -> list[Cell]:
        need(self.number("H") == count)
        found = []
        for _ in range(count):
            tag = self.raw(1)
            need(tag in (b"n", b"u", b"t", b"b"))
            found.append((tag.decode(), self.raw(self.number("i")) if tag in b"tb" else b""))
        return found

    def done(self) -> None:
        need(self.at == len(self.data))


@dataclass
class Reader:
    """What a run says, by the manual."""

    relations: dict[int, tuple[Any, ...]] = field(default_factory=dict)
    open: tuple[int, int] | None = None
    upto: int = 0

    def read(self, chunks: Sequence[bytes]) -> HISTORY:
        history: HISTORY = {}
        for chunk in chunks:
            need(len(chunk) > 0)
            body = Body(chunk[1:])
            getattr(self, f"on_{chunk[0]}", self.unknown)(body, history)
            body.done()
        return history

    def unknown(self, body: Body, history: HISTORY) -> None:
        raise Malformed

    def on_66(self, body: Body, history: HISTORY) -> None:  # B
        lsn, at = body.number("q"), body.number("q")
        body.raw(4)
        need(self.open is None and lsn >= self.upto and abs(at) < 2**62)
        self.open = lsn, at

    def on_67(self, body: Body, history: HISTORY) -> None:  # C
        need(body.number("B") == 0)
        lsn, end, at = body.number("q"), body.number("q"), body.number("q")
        need(self.open == (lsn, at) and end > lsn)
        self.open, self.upto = None, end

    def on_79(self, body: Body, history: HISTORY) -> None:  # O
        body.raw(8)
        need(body.data.endswith(b"\0") and len(body.data) > 8)
        body.at = len(body.data)

    def on_77(self, body: Body, history: HISTORY) -> None:  # M
        body.raw(9)
        body.text()
        body.raw(body.number("I"))

    def on_89(self, body: Body, history: HISTORY) -> None:  # Y
        body.raw(4)
        body.text()
        body.text()

    def on_82(self, body: Body, history: HISTORY) -> None:  # R
        oid, schema, name, identity = body.number("I"), body.text(), body.text(), body.raw(1)
        need(identity in (b"d", b"n", b"f", b"i"))
        columns = []
        for _ in range(body.number("H")):
            flags = body.number("B")
            need(flags <= 1)
            columns.append((body.text(), body.number("I"), body.number("i"), bool(flags)))
        described = (schema or "pg_catalog", name, identity.decode(), tuple(columns))
        if self.relations.get(oid) != described:
            history.setdefault(oid, []).append(("relation", described))
        self.relations[oid] = described

    def on_84(self, body: Body, history: HISTORY) -> None:  # T
        count = body.number("I")
        need(body.number("B") <= 3 and count > 0 and self.open is not None)
        for oid in [body.number("I") for _ in range(count)]:
            need(oid in self.relations)
            history.setdefault(oid, []).append(("truncate", *self.commit))

    def on_73(self, body: Body, history: HISTORY) -> None:  # I
        oid, count = self.changed(body)
        need(body.raw(1) == b"N")
        self.row(history, oid, "I", body.cells(count), None)

    def on_85(self, body: Body, history: HISTORY) -> None:  # U
        oid, count = self.changed(body)
        mark, old = body.raw(1), None
        need(mark in (b"K", b"O", b"N"))
        if mark != b"N":
            old = body.cells(count)
            need(all(tag != "u" for tag, _ in old))
            need(body.raw(1) == b"N")
        new = body.cells(count)
        if old:
            new = [o if n[0] == "u" and o[0] != "n" else n for n, o in zip(new, old, strict=True)]
        self.row(history, oid, "U", new, old)

    def on_68(self, body: Body, history: HISTORY) -> None:  # D
        oid, count = self.changed(body)
        need(body.raw(1) in (b"K", b"O"))
        self.row(history, oid, "D", body.cells(count), None)

    def changed(self, body: Body) -> tuple[int, int]:
        oid = body.number("I")
        need(oid in self.relations and self.open is not None)
        return oid, len(self.relations[oid][3])

    def row(self, history: HISTORY, oid: int, kind: str, cells: list[Cell], old: list[Cell] | None) -> None:
        need(kind == "U" or all(tag != "u" for tag, _ in cells))
        history.setdefault(oid, []).append(("row", kind, *self.commit, cells, old))

    @property
    def commit(self) -> tuple[int, int]:
        assert self.open is not None
        return self.open[0], self.open[1] + TO_1970


def history_of(decoded: Decoded, known: dict[int, Relation]) -> HISTORY:
    """The same from the decoder's answer; `known` are the relations before, and afterwards those after."""
    history: HISTORY = {}
    for item in decoded.items:
        if isinstance(item, Relation):
            if known.get(item.oid) != item:
                columns = tuple((c.name, c.type_oid, c.modifier, c.is_key) for c in item.columns)
                described = (item.name.schema, item.name.name, item.identity, columns)
                history.setdefault(item.oid, []).append(("relation", described))
            known[item.oid] = item
        elif isinstance(item, Rows):
            assert known[item.relation.oid] == item.relation, "rows follow their Relation"
            history.setdefault(item.relation.oid, []).extend(rows_of(item))
        else:
            for oid in item.oids:
                history.setdefault(oid, []).append(("truncate", item.lsn, item.committed_at))
    return history


def rows_of(rows: Rows) -> list[Any]:
    new, old = values(rows.cells, len(rows)), iter(values(rows.before, int(rows.has_before.sum())))
    assert all(len(a) == len(rows) for a in (rows.kind, rows.lsn, rows.committed_at, rows.has_before))
    return [
        ("row", chr(kind), int(lsn), int(at), cells, next(old) if has_before else None)
        for kind, lsn, at, cells, has_before in zip(
            rows.kind, rows.lsn, rows.committed_at, new, rows.has_before, strict=True
        )
    ]


def values(columns: Sequence[Cells], count: int) -> list[list[Cell]]:
    for c in columns:
        assert len(c.tag) == len(c.start) == len(c.length) == count
    return [
        [(chr(c.tag[i]), c.buffer[c.start[i] : c.start[i] + c.length[i]].tobytes()) for c in columns]
        for i in range(count)
    ]


def both(runs: Sequence[Sequence[bytes]]) -> list[HISTORY] | None:
    """The history of each run, if both read it alike; None when both refuse."""
    decoder, reader, known = Decoder(), Reader(), {}
    histories = []
    for chunks in runs:
        try:
            expected = reader.read(chunks)
        except Malformed:
            with pytest.raises(OriginError):
                decoder.decode(join_messages(chunks))
            return None
        decoded = decoder.decode(join_messages(chunks))
        assert history_of(decoded, known) == expected
        assert decoded.is_open == (reader.open is not None)
        assert decoded.transactions == sum(c[:1] == b"C" for c in chunks)
        assert decoded.upto == (reader.upto if decoded.transactions else 0)
        histories.append(expected)
    return histories


# --- what is sent ------------------------------------------------------------------------------------------------

EXAMPLES = settings(max_examples=150, deadline=None, print_blob=True)
short = st.binary(max_size=12)
cells = st.one_of(st.tuples(st.sampled_from("tb"), short), st.just(("n", b"")))
sent_or_not = st.one_of(cells, st.just(("u", b"")))


@st.composite
def changes(draw: st.DrawFn, shapes: dict[int, int]) -> bytes:
    """One change of a described relation, or a description, or something that is neither. Keeps `shapes` up to date."""
    oid = draw(st.sampled_from([1, 2, 70_000, 65_537]))  # the last one has the first one's low 16 bits
    what = draw(st.sampled_from("IIIIUUUDDRTMOY")) if oid in shapes else "R"
    if what == "R":
        if oid not in shapes or draw(st.booleans()):
            shapes[oid] = draw(st.integers(0, 4))
        return relation(oid, [f"c{i}" for i in range(shapes[oid])], name=f"t{oid}")
    if what == "T":
        return truncate(*draw(st.lists(st.sampled_from(sorted(shapes)), min_size=1, unique=True)))
    if what in "MOY":
        return {"M": logical_message(draw(short)), "O": ORIGIN, "Y": TYPE}[what]
    width = shapes[oid]
    row = st.lists(cells, min_size=width, max_size=width)
    if what == "I":
        return insert(oid, draw(row))
    if what == "D":
        return delete(oid, draw(row), draw(st.sampled_from("KO")))
    new = draw(st.lists(sent_or_not, min_size=width, max_size=width))
    return update(oid, new, draw(st.none() | row), draw(st.sampled_from("KO")))


@st.composite
def streams(draw: st.DrawFn) -> list[bytes]:
    """Transactions, each with a few changes; the last one may be open."""
    shapes: dict[int, int] = {}
    chunks, lsn = [], 0
    for _ in range(draw(st.integers(1, 6))):
        lsn, at = lsn + draw(st.integers(0, 50)), draw(st.integers(-(2**55), 2**55))
        chunks.append(begin(lsn, at))
        chunks += [draw(changes(shapes)) for _ in range(draw(st.integers(0, 12)))]
        chunks.append(commit(lsn, lsn + 10, at))
        lsn += 10
    return chunks if draw(st.booleans()) else chunks[:-1]


@EXAMPLES
@given(streams())
def test_transactions_are_read_as_a_plain_reader_reads_them(chunks: list[bytes]) -> None:
    assert both([chunks]) is not None


@EXAMPLES
@given(streams(), st.data())
def test_split_into_runs_anywhere_the_rows_are_the_same(chunks: list[bytes], data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(chunks)), max_size=3)))
    runs = [chunks[a:b] for a, b in zip([0, *cuts], [*cuts, len(chunks)], strict=True)]
    whole, parts = both([chunks]), both(runs)
    assert whole is not None
    assert parts is not None
    joined: HISTORY = {}
    for part in parts:
        for oid, events in part.items():
            joined.setdefault(oid, []).extend(events)
    assert joined == whole[0]


@EXAMPLES
@given(streams(), st.data())
def test_messages_lost_doubled_or_out_of_order_are_refused_or_read_alike(
    chunks: list[bytes], data: st.DataObject
) -> None:
    i, j = (data.draw(st.integers(0, len(chunks) - 1)) for _ in "ij")
    damage = data.draw(st.sampled_from(["lose", "double", "swap"]))
    if damage == "lose":
        del chunks[i]
    elif damage == "double":
        chunks.insert(i, chunks[j])
    else:
        chunks[i], chunks[j] = chunks[j], chunks[i]
    both([chunks])


@EXAMPLES
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=40),
            st.builds(lambda k, b: k + b, st.sampled_from([bytes([k]) for k in b"BCORYIUDTM"]), st.binary(max_size=40)),
        ),
        max_size=4,
    )
)
def test_garbage_is_refused_or_read_alike(garbage: list[bytes]) -> None:
    described = [begin(1), relation(1, "ab"), insert(1, [("t", b"x"), ("n", b"")])]
    both([[*described, *garbage]])
    both([garbage])


@EXAMPLES
@given(streams(), st.data())
def test_flipped_bits_are_refused_or_read_alike(chunks: list[bytes], data: st.DataObject) -> None:
    """A flip within a value gives another value; nothing else may differ in silence."""
    for _ in range(data.draw(st.integers(1, 3))):
        i = data.draw(st.integers(0, len(chunks) - 1))
        at = data.draw(st.integers(0, len(chunks[i]) * 8 - 1))
        flipped = bytearray(chunks[i])
        flipped[at // 8] ^= 1 << at % 8
        chunks[i] = bytes(flipped)
    both([chunks])


def test_many_rows_are_read_as_a_plain_reader_reads_them() -> None:
    """More than the decoder takes at a time, of two tables, with a wrong one at the end of them."""
    chance = random.Random(7)
    chunks = [begin(1), relation(1, "abc"), relation(2, "ab")]
    for i in range(25_000):
        row = [chance.choice([("n", b""), ("t", b"x" * (i % 9)), ("b", bytes([i % 256]))]) for _ in "abc"]
        of_first = insert(1, row) if i % 3 else update(1, [("u", b""), *row[1:]], row if i % 2 else None, "O")
        chunks.append(of_first if i % 4 else delete(2, row[:2]))
    assert both([chunks]) is not None
    assert both([[*chunks, insert(1, SENT)]]) is None
    assert both([[*chunks, insert(2, SENT)[:-1]]]) is None


RECORDINGS = sorted(RECORDED.glob("*.hex.gz"))


def test_there_are_recordings() -> None:
    assert len(RECORDINGS) >= 8


@pytest.mark.parametrize("file", RECORDINGS, ids=lambda f: f.name)
def test_recordings_are_read_as_a_plain_reader_reads_them(file: Path) -> None:
    assert both([read(file)]) is not None


def short_story() -> list[bytes]:
    """A recording with its long values cut out, to damage each byte of it in reasonable time."""
    long = struct.pack(">i", 3000)
    return [
        m.replace(long + b"x" * 3000, struct.pack(">i", 3) + b"xxx").replace(long + b"y" * 3000, struct.pack(">i", 0))
        for m in read(RECORDED / "postgres18-binary.hex.gz")
    ]


def test_a_message_cut_at_any_byte_is_refused() -> None:
    chunks = short_story()
    for i, chunk in enumerate(chunks):
        for size in range(len(chunk)):
            with pytest.raises(OriginError):
                Decoder().decode(join_messages([*chunks[:i], chunk[:size]]))


def test_a_message_with_one_byte_more_is_refused() -> None:
    chunks = short_story()
    for i, chunk in enumerate(chunks):
        for extra in b"nNt" if chunk[:1] == b"O" else b"\0nNt":  # of an origin's name, which nobody reads, only the end
            with pytest.raises(OriginError):
                Decoder().decode(join_messages([*chunks[:i], chunk + bytes([extra]), *chunks[i + 1 :]]))


def test_any_byte_of_a_recording_changed_is_refused_or_read_alike() -> None:
    """Each byte of the story in turn becomes another one, by a seed; those around it stay."""
    chunks, chance = short_story(), random.Random(20261121)
    for i, chunk in enumerate(chunks):
        for at in range(len(chunk)):
            wrong = bytearray(chunk)
            wrong[at] ^= chance.randrange(1, 256)
            both([[*chunks[:i], bytes(wrong), *chunks[i + 1 :]]])


def test_a_run_whose_end_is_lost_is_refused_at_each_byte_of_its_buffer() -> None:
    """As if the receiver had less in its buffer than it says."""
    messages = join_messages(short_story())
    for size in range(0, len(messages.buffer) - 8, 7):
        with pytest.raises(OriginError):
            Decoder().decode(replace(messages, buffer=messages.buffer[:size]))


HEAD = [begin(1), relation(1, "ab")]
SENT, MISSING = [("t", b"1"), ("t", b"x")], [("t", b"1"), ("u", b"")]


@pytest.mark.parametrize(
    "chunks",
    [
        [*HEAD, insert(1, MISSING)],
        [*HEAD, delete(1, MISSING)],
        [*HEAD, update(1, SENT, MISSING)],
        [*HEAD, b"I" + struct.pack(">IcH", 1, b"N", 2) + b"n" + b"t" + struct.pack(">i", 3 - 2**31) + b"abc"],
        [begin(1, 2**62)],
        [begin(1, -(2**63))],
        [begin(-1)],
        [begin(2**62), begin(2**62)],
        [begin(5), commit(5, 5)],
        [begin(5), commit(5, 9), begin(8)],
        [begin(5), commit(5, -(2**63))],
    ],
    ids=lambda chunks: b"".join(c[:1] for c in chunks).decode(),
)
def test_what_no_server_says_is_refused(chunks: list[bytes]) -> None:
    """A value left out where nothing is known of it; a time, an LSN or an order of transactions that cannot be."""
    assert both([chunks]) is None


def test_claims_of_huge_sizes_allocate_nothing() -> None:
    head = [begin(1), relation(1, "a"), relation(3, [f"c{i}" for i in range(1600)])]
    huge = [
        [b"I" + struct.pack(">IcHci", 1, b"N", 1, b"t", 2**31 - 1) + b"x"],
        [b"I" + struct.pack(">IcHci", 1, b"N", 1, b"t", -1)],
        [b"I" + struct.pack(">IcH", 1, b"N", 65_535)],
        [b"I" + struct.pack(">IcH", 3, b"N", 1600)] * 1000,
        [b"T" + struct.pack(">IBI", 2**32 - 1, 0, 1)],
        [b"R" + struct.pack(">I", 2) + b"public\0t\0d" + struct.pack(">H", 65_535)],
        [b"M" + struct.pack(">Bq", 0, 1) + b"p\0" + struct.pack(">I", 2**32 - 1)],
    ]
    tracemalloc.start()
    try:
        for claims in huge:
            assert both([[*head, *claims]]) is None
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def read(file: Path) -> list[bytes]:
    return [bytes.fromhex(line) for line in gzip.decompress(file.read_bytes()).decode().split()]

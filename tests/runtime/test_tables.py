"""Files of anybody: a bad row is told by its number, the rows around it are read, a bad file is one named error."""
import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nft_jax.runtime import tables
from nft_jax.runtime.tables import DEEPEST, arrow_table, listed, no_file, read_table
from refusal import refused

GOOD = {"problem": "1+1", "answer": "2"}


def nested(levels: int) -> bytes:
    return b'{"x": ' + b"[" * (levels - 1) + b"]" * (levels - 1) + b"}"


def rows_of(path) -> dict:
    return dict(read_table(path, f"FILE is {str(path)!r}").rows)


@pytest.mark.parametrize(("line", "told"), [
    (b"{broken", "not JSON"), (b"[1, 2]", "list"), (b"null", "NoneType"), (b'{"x": 1} {"x": 2}', "not JSON"),
    (b'{"x": ' + b"9" * 5000 + b"}", "4300"), (b'{"x": "caf\xe9"}', "not UTF-8"), (b"\x1f\x8b\x08\x00", "not UTF-8"),
    (nested(DEEPEST + 1), f"more than {DEEPEST} levels"), (nested(3_000), f"more than {DEEPEST} levels"),
    (nested(1_000_000), f"more than {DEEPEST} levels"), (b"[" * 1_000_000, "levels"), (b"{" * 1_000_000, "not JSON"),
], ids=lambda value: repr(value)[:20])
def test_a_line_that_cannot_be_read_is_told_by_its_number(tmp_path, line, told):
    path = tmp_path / "q.jsonl"
    good = json.dumps(GOOD).encode()
    path.write_bytes(b"\n".join([good, b"", line, good]))
    rows = rows_of(path)
    assert rows.keys() == {1, 3, 4} and rows[1] == rows[4] == GOOD
    assert told in rows[3] and len(rows[3]) < 200


def test_what_json_allows_is_read(tmp_path):
    lines = [nested(DEEPEST), json.dumps({"x": "[" * 3000 + "{" * 3000}).encode(), b'{"x": [' + b"[1]," * 500 + b"2]}",
             '{"x": "a\u2028b\u0085c\x7f"}'.encode(), b'\xef\xbb\xbf{"x": 1}\r']
    path = tmp_path / "q.jsonl"
    path.write_bytes(b"\n".join(lines))
    assert rows_of(path) == {number: json.loads(line) for number, line in enumerate(lines, 1)}


@given(st.binary(max_size=60).filter(lambda line: b"\n" not in line))
def test_no_line_takes_its_neighbours_along(tmp_path_factory, line):
    path = tmp_path_factory.mktemp("junk") / "q.jsonl"
    good = json.dumps(GOOD).encode()
    path.write_bytes(b"\n".join([good, line, good]))
    rows = rows_of(path)
    assert rows[1] == rows[3] == GOOD and isinstance(rows.get(2, {}), (dict, str))


@pytest.mark.parametrize("end", [b"", b"\n", b"x\n" + json.dumps(GOOD).encode()])
def test_a_line_without_end_is_not_read_whole(tmp_path, monkeypatch, end):
    monkeypatch.setattr(tables, "LONGEST_LINE", 1 << 10)
    path = tmp_path / "q.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b"\n" + b"x" * 5000 + end)
    rows = rows_of(path)
    assert "longer than" in rows[2] and rows[1] == rows.get(3, GOOD) == GOOD and len(rows) == 2 + (len(end) > 1)


@pytest.mark.parametrize("kind", [".jsonl", ".parquet"])
@pytest.mark.parametrize("what", ["nothing", "folder", "pipe", "device", "itself", "dangling", "name too long", "null"])
def test_what_is_no_file_is_named(tmp_path, what, kind):
    path = tmp_path / f"q{kind}"
    told = "no such file"
    if what == "folder":
        path.mkdir()
        told = "folder"
    elif what == "pipe":
        os.mkfifo(path)
        told = "pipe"
    elif what == "device":
        path.symlink_to("/dev/zero")
        told = "device"
    elif what == "itself":
        path.symlink_to(path)
    elif what == "dangling":
        path.symlink_to(tmp_path / "gone")
    elif what == "name too long":
        path = tmp_path / ("q" * 5000 + kind)
    elif what == "null":
        path = tmp_path / f"q\0{kind}"
    assert told in no_file(path)
    with refused("FILE is", repr(str(path)), told):
        rows_of(path)


def not_utf8() -> pa.Array:
    """Three texts, the second of which is not UTF-8."""
    ends = pa.array([0, 3, 5, 8], pa.int32()).buffers()[1]
    return pa.StringArray.from_buffers(3, ends, pa.py_buffer(b"1+1\xff\xfe2+2"))


def test_a_cell_that_is_not_utf8_costs_its_row(tmp_path):
    pq.write_table(pa.table({"problem": not_utf8(), "answer": ["2", "3", "4"]}), tmp_path / "q.parquet")
    rows = rows_of(tmp_path / "q.parquet")
    assert rows[1] == GOOD and "not UTF-8" in rows[2] and rows[3] == {"problem": "2+2", "answer": "4"}


@pytest.mark.parametrize("compression", ["snappy", "zstd", "none"])
def test_a_damaged_page_is_named_after_the_rows_before_it(tmp_path, compression):
    path = tmp_path / "q.parquet"
    pq.write_table(pa.table({"problem": [f"{i}+1" for i in range(5000)]}), path, compression=compression,
                   row_group_size=1000, use_dictionary=False)
    chunk = pq.ParquetFile(path).metadata.row_group(2).column(0)
    damaged = bytearray(path.read_bytes())
    start = chunk.data_page_offset
    damaged[start:start + chunk.total_compressed_size] = b"\xee" * chunk.total_compressed_size
    path.write_bytes(damaged)
    seen = []
    with refused(repr(str(path)), "damaged", "again") as caught:
        seen.extend(row for _, row in read_table(path, f"FILE is {str(path)!r}").rows)
    assert seen == [{"problem": f"{i}+1"} for i in range(len(seen))] and f"after row {len(seen)} " in str(caught.value)
    assert 2000 - tables.BATCH < len(seen) <= 2000


@pytest.mark.parametrize("damage", [lambda data: b"no parquet", lambda data: b"", lambda data: data[:300],
                                    lambda data: data[:-20] + b"\xff" * 12 + data[-8:]])
def test_a_file_that_is_no_parquet_is_named(tmp_path, damage):
    path = tmp_path / "q.parquet"
    pq.write_table(pa.table({"problem": [f"{i}+1" for i in range(1000)]}), path)
    path.write_bytes(damage(path.read_bytes()))
    with refused(repr(str(path)), "parquet"):
        rows_of(path)


def test_rows_are_decoded_in_small_batches():
    """However large a row is: no more rows are held than a batch has."""
    asked = []

    def batches():
        for i in range(10):
            asked.append(i)
            yield pa.record_batch({"problem": ["x"] * tables.BATCH})

    rows = arrow_table(["problem"], batches(), "FILE").rows
    for _ in range(tables.BATCH + 1):
        next(rows)
    assert asked == [0, 1]


def test_only_wanted_columns_are_read_and_all_are_known(tmp_path):
    path = tmp_path / "q.parquet"
    pq.write_table(pa.table({"problem": ["1+1"], "image": [b"x" * 1000]}), path)
    table = read_table(path, "FILE", {"problem"}.__contains__)
    assert list(table.columns) == ["problem", "image"] and dict(table.rows) == {1: {"problem": "1+1"}}


def test_a_column_that_is_there_twice_is_named(tmp_path):
    path = tmp_path / "q.parquet"
    pq.write_table(pa.table([["1+1"], ["1+2"], ["x"]], names=["problem", "problem", "other"]), path)
    with refused(repr(str(path)), "problem"):
        read_table(path, f"FILE is {str(path)!r}")
    assert dict(read_table(path, "FILE", {"other"}.__contains__).rows) == {1: {"other": "x"}}


def test_ten_names_are_listed():
    assert listed(["a", "b"]) == "a, b" and listed([]) == ""
    assert listed(f"c{i}" for i in range(1_000_000)) == \
        "c0, c1, c2, c3, c4, c5, c6, c7, c8, c9 and 999,990 more"
    assert len(listed(["x" * 10_000] * 20)) < 700

"""What changed inside a file, as people would say it."""

import pytest

from reprokit.comparison.files.text_diff import compare_content


@pytest.mark.parametrize(
    ("key", "left", "right", "kind", "lines"),
    [
        ("a.txt", b"a\nb\nc\n", b"a\nB\nc\n", "text", ["@@ -1,3 +1,3 @@", " a", "-b", "+B", " c"]),
        ("a.csv", b"id,x,y\n1,a,b\n2,c,d\n", b"id,x,z\n3,c,d\n1,A,b\n", "table",
         ["+ column z", "- column y", "+ row 3", "- row 2", "~ 1, x  a → A"]),
        ("a.tsv", b"n\tv\n1\t2\n1\t3\n", b"n\tv\n1\t2\n1\t4\n", "table", ["~ 2, v  3 → 4"]),
        ("a.csv", b"a,b\n1,2\n", b'a,b\n"1",2\n', "table",
         ["~ quoting, blank lines, or the order of rows or columns"]),
        ("a.csv", b"\xef\xbb\xbfa,b\n1,2\n", b"a,b\n1,3\n", "table", ["~ 1, b  2 → 3"]),
        ("a.csv", b"a,b\n1,2.0\n", b"a,b\n1,2\n", "table", ["~ 1, b  2.0 → 2"]),
        ("a.csv", b"a,b\n1,2\n", b"a,b\n1,2\n3,\n", "table", ["+ row 3"]),
        ("a.csv", b"a,b\n1,2\n3,\n", b"a,b\n1,2\n", "table", ["- row 3"]),
        ("a.csv", b"a,b\n", b"a,b\n7,2\n", "table", ["+ row 7"]),
        ("a.csv", b"a\n1\n1\n", b"a\n1\n1\n1\n", "table", ["+ row 3"]),
        ("a.csv", b"a,b\n1,2\n", b"a,b,c\n1,2,\n", "table", ["+ column c"]),
        ("a.csv", b"a,b,c\n1,2,\n", b"a,b\n1,2\n", "table", ["- column c"]),
        ("a.csv", b"a,b\n1\n", b"a,b\n2\n", "text", ["@@ -1,2 +1,2 @@", " a,b", "-1", "+2"]),
        ("a.csv", b"", b"a\n1\n", "text", ["@@ -0,0 +1,2 @@", "+a", "+1"]),
        ("a.bin", b"\xff\x00", b"\xff\x01\x02", "bytes", ["bytes differ from offset 1 on (2 → 3 bytes)"]),
        ("a.bin", b"\xff", b"\xff\x01", "bytes", ["bytes differ from offset 1 on (1 → 2 bytes)"]),
        ("a.txt", b"x" * 5_000_000, b"y", "bytes",
         ["not compared inside: larger than 4,194,304 bytes (5,000,000 → 1 bytes)"]),
    ],
)  # fmt: skip
def test_differences_inside(key, left, right, kind, lines):
    found = compare_content(key, left, right)
    assert (found.kind, list(found.lines)) == (kind, lines)


def test_tables_that_share_nothing_take_no_time():
    wide = ",".join(f"x{number}" for number in range(500_000)).encode() + b"\n"
    tall = b"".join(b"%d\n" % number for number in range(500_000))
    found = compare_content("a.csv", wide, tall)
    assert found.table is not None
    assert (len(found.table.columns_removed), len(found.table.rows_added)) == (500_000, 499_999)

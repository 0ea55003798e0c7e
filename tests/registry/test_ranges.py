"""`Range` headers, as RFC 9110 reads them."""

from __future__ import annotations

import pytest

from finetune_hub.registry.ranges import RangeRefused, Span, requested_span


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes=0-0", Span(0, 1)),
        ("bytes=2-5", Span(2, 4)),
        ("Bytes = 2 - 5", Span(2, 4)),
        ("bytes=7-", Span(7, 3)),
        ("bytes=7-99999999999", Span(7, 3)),
        ("bytes=-4", Span(6, 4)),
        ("bytes=-400", Span(0, 10)),
        ("bytes=0-9", Span(0, 10)),
        # The whole file is a right answer to these.
        ("", None),
        ("bytes=", None),
        ("bytes=-", None),
        ("bytes=5-2", None),
        ("bytes=0-1,4-5", None),
        ("bytes=a-b", None),
        ("bytes=٣-٤", None),
        ("bytes=" + "9" * 10_000 + "-", None),
        ("rows=1-2", None),
    ],
)
def test_a_range_is_a_span_or_the_whole_file(header: str, expected: Span | None) -> None:
    assert requested_span(header, 10) == expected


@pytest.mark.parametrize(
    ("header", "size_bytes"), [("bytes=10-", 10), ("bytes=10-20", 10), ("bytes=-0", 10), ("bytes=0-", 0)]
)
def test_a_range_behind_the_end_is_refused(header: str, size_bytes: int) -> None:
    with pytest.raises(RangeRefused, match=f"The file has {size_bytes} bytes"):
        requested_span(header, size_bytes)


def test_it_is_written_as_the_header_wants_it() -> None:
    assert Span(2, 4).content_range(10) == "bytes 2-5/10"

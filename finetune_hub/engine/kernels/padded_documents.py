"""Indices that arrange the tokens of packed documents in rectangles for attention.

Documents of similar length form a group, longest first, and each is padded to whole blocks of B queries. Within a
group, block j of all documents that have one is one slice of queries and of keys, for one batched product:

    queries    (J, documents, N, B)        keys    (documents, K, J · B)        each entry: a row of (heads · T)

Shape letters:  N query heads,  K key heads,  T tokens of all documents,  J blocks,  B queries of a block.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor

BLOCK_QUERIES = 32
MOST_BLOCKS = 16  # Longer documents get larger blocks, as every block shape needs its own kernels.


@dataclass(frozen=True)
class Group:
    """Documents that share a rectangle."""

    queries: slice  # of all padded query rows
    keys: slice  # of all padded key rows
    documents: int
    block: int  # B
    reaching: tuple[int, ...]  # documents that have a block j, for each j


@dataclass(frozen=True)
class PaddedDocuments:
    """Indices of queries and keys into the padded layout and back."""

    groups: tuple[Group, ...]
    query_rows: Tensor  # (padded,) into (N · T)
    key_rows: Tensor  # (padded,) into (K · T)
    padding: Tensor  # query rows that are padding
    queries_back: Tensor  # (T · N) into padded query rows
    keys_back: Tensor  # (T · K) into padded key rows


@lru_cache(maxsize=4)  # Shared by all layers of a micro-batch.
def padded_documents(bounds: tuple[int, ...], heads: int, key_heads: int) -> PaddedDocuments:
    """Return the layout of documents [bounds[i], bounds[i + 1])."""
    tokens = bounds[-1]
    groups, query_rows, key_rows, padding = [], [], [], []
    queries_back = torch.empty(tokens, heads, dtype=torch.long)
    keys_back = torch.empty(tokens, key_heads, dtype=torch.long)
    query_head, key_head = (torch.arange(count)[:, None] for count in (heads, key_heads))
    first_query = first_key = 0
    for spans in _alike([(start, stop) for start, stop in pairwise(bounds) if stop > start]):
        longest = spans[0][1] - spans[0][0]
        block = BLOCK_QUERIES * -(-longest // (BLOCK_QUERIES * MOST_BLOCKS))
        blocks = -(-longest // block)
        starts, stops = (torch.tensor(ends)[:, None] for ends in zip(*spans, strict=True))
        places = starts + torch.arange(blocks * block)  # (documents, J · B)
        is_token = places < stops
        places = torch.minimum(places, stops - 1)  # No query can see a padded key, as it comes after all of them.

        by_block = places.view(len(spans), blocks, 1, block).transpose(0, 1)
        rows = (query_head * tokens + by_block).flatten()
        real = is_token.view(len(spans), blocks, 1, block).transpose(0, 1).expand(-1, -1, heads, -1).flatten()
        real_rows = rows[real]
        queries_back[real_rows % tokens, real_rows // tokens] = first_query + real.nonzero()[:, 0]
        query_rows.append(rows)
        padding.append(first_query + (~real).nonzero()[:, 0])

        rows = (key_head * tokens + places[:, None]).flatten()
        real = is_token[:, None].expand(-1, key_heads, -1).flatten()
        real_rows = rows[real]
        keys_back[real_rows % tokens, real_rows // tokens] = first_key + real.nonzero()[:, 0]
        key_rows.append(rows)

        lengths = [stop - start for start, stop in spans]
        reaching = tuple(sum(length > j * block for length in lengths) for j in range(blocks))
        queries = slice(first_query, first_query + len(query_rows[-1]))
        keys = slice(first_key, first_key + len(rows))
        groups.append(Group(queries, keys, len(spans), block, reaching))
        first_query, first_key = queries.stop, keys.stop
    return PaddedDocuments(
        tuple(groups),
        torch.cat(query_rows),
        torch.cat(key_rows),
        torch.cat(padding),
        queries_back.flatten(),
        keys_back.flatten(),
    )


def _alike(spans: Sequence[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    """Yield groups, longest first, with no span shorter than half the longest, so padding at most doubles a group."""
    run: list[tuple[int, int]] = []
    for span in sorted(spans, key=lambda span: span[0] - span[1]):
        if run and 2 * (span[1] - span[0]) < run[0][1] - run[0][0]:
            yield run
            run = []
        run.append(span)
    if run:
        yield run

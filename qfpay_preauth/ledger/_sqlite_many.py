"""One statement for many rows: each one run gives up and takes back the interpreter, and has its price in SQLite."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import TypeVar

T = TypeVar("T")

ROWS_MAX = 64
"""Rows in one statement at most."""


def parts(rows: list[T]) -> Iterator[list[T]]:
    """All of them, in parts of 64, 32, 16 … rows: few different statements, which are kept prepared."""
    start = 0
    while left := len(rows) - start:
        size = min(ROWS_MAX, 1 << left.bit_length() - 1)
        yield rows[start : start + size]
        start += size


def filled(keys: list[str]) -> Iterator[list[str]]:
    """All of them, in parts whose last is filled up to a power of two with what is in it."""
    for start in range(0, len(keys), ROWS_MAX):
        part = keys[start : start + ROWS_MAX]
        size = 1 << (len(part) - 1).bit_length()
        yield part + part[-1:] * (size - len(part))


@cache
def insert(text: str, rows: int) -> str:
    """An INSERT of one row as one of so many."""
    head, marks = text.split(" VALUES ")
    return f"{head} VALUES {', '.join([marks] * rows)}"


@cache
def update(text: str, rows: int) -> str:
    """An UPDATE of one row as one of so many."""
    if rows == 1:
        return text
    *places, end = text.split("?")
    names = [f"{place}v.column{number}" for number, place in enumerate(places, 1)]
    head, where = "".join([*names, end]).split(" WHERE ")
    marks = f"({', '.join('?' * len(places))})"
    return f"{head} FROM (VALUES {', '.join([marks] * rows)}) AS v WHERE {where}"


@cache
def among(text: str, keys: int) -> str:
    """A SELECT `IN (?)` as one of so many keys."""
    return text.replace("(?)", f"({', '.join('?' * keys)})")

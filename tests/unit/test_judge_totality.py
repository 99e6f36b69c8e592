"""The judge is total: any status and any bytes give a verdict, and nothing but a matching answer ends an entry."""

from __future__ import annotations

import json
from datetime import UTC
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qfpay_preauth._models import Answer, Entry, Judgement, Operation, Verdict
from qfpay_preauth._signing import Signer
from qfpay_preauth._wire import judge

from .kit import CLIENT_KEY, entry_of, fields_for

KEYS = [Signer(CLIENT_KEY)]
GOOD = json.dumps(fields_for(entry_of())).encode()
DEEP = 100_000


def check(verdict: Verdict) -> Verdict:
    """What holds for every verdict, whatever it came from: it can be stored, shown, and dated."""
    assert verdict.judgement in Judgement
    texts = (verdict.code, verdict.message, verdict.detail, verdict.result_syssn)
    assert all(text is None or text.encode().decode().isprintable() for text in texts)
    assert json.dumps(dict(verdict.raw or {}), ensure_ascii=False).encode()
    assert verdict.system_time is None or verdict.system_time.astimezone(UTC)
    assert verdict.judgement is Judgement.EXECUTED or not verdict.mismatch or verdict.judgement is Judgement.IN_DOUBT
    return verdict


def with_field(name: bytes, value: bytes) -> bytes:
    """The good answer with one more field, spelled in raw bytes."""
    return GOOD[:-1] + b', "' + name + b'": ' + value + b"}"


@pytest.mark.parametrize("status", [200, 500])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"SUCCESS",
        b"<html><body>Bad Gateway</body></html>",
        b"\x00" * 1000,
        b"\xff\xfe\xfd",
        b"\xef\xbb\xbf" + GOOD,
        GOOD.decode().encode("utf-16"),
        GOOD.decode().encode("utf-32"),
        GOOD + GOOD,
        GOOD + b"\x00",
        b"[" + GOOD + b"]",
        json.dumps(GOOD.decode()).encode(),
        json.dumps({"data": json.loads(GOOD)}).encode(),
        with_field(b"respcd", b'"0000"'),
        with_field(b"txamt", b'"500"'),
        with_field(b"\\u0074xamt", b'"501"'),
        with_field(b"x", b"NaN"),
        with_field(b"x", b"-Infinity"),
        with_field(b"x", b"1" * 5000),
        with_field(b"x", b"[" * DEEP + b"]" * DEEP),
        with_field(b"x", b'{"y":' * DEEP + b"1" + b"}" * DEEP),
        with_field(b"x", b'"\xed\xa0\x80"'),
        with_field(b"x", b"'single'"),
        with_field(b"x", b"01"),
        with_field(b"x", b"undefined"),
    ],
    ids=lambda value: repr(value[:24]) if isinstance(value, bytes) else str(value),
)
def test_bytes_that_are_not_the_expected_object_leave_doubt(status: int, body: bytes) -> None:
    """Not JSON, cut, doubled, another encoding, duplicate keys, NaN, too deep, too long: in doubt."""
    assert check(judge(entry_of(), Answer(status, {}, body), KEYS)).judgement is Judgement.IN_DOUBT


def test_an_answer_cut_anywhere_leaves_doubt() -> None:
    """However much of a yes arrived, it is a yes only when it is whole."""
    for length in range(len(GOOD)):
        verdict = check(judge(entry_of(), Answer(200, {}, GOOD[:length]), KEYS))
        assert verdict.judgement is Judgement.IN_DOUBT, length


def test_an_answer_with_one_broken_byte_is_never_a_crash() -> None:
    """One byte that is not UTF-8 makes the whole answer unreadable."""
    for position in range(len(GOOD)):
        body = GOOD[:position] + b"\xff" + GOOD[position + 1 :]
        verdict = check(judge(entry_of(), Answer(200, {}, body), KEYS))
        assert verdict.judgement is Judgement.IN_DOUBT, position


@pytest.mark.parametrize(
    "value",
    [
        '"\\ud800"',
        '"\\udc80 lone"',
        '"a\\u0000b"',
        '"\\u202e\\u0007"',
        '"' + "x" * 100_000 + '"',
        "1" * 4000,
        "-" + "9" * 4000,
        "1e-999",
        "true",
        "[[[]]]",
        '{"respcd": "1108"}',
    ],
    ids=lambda value: str(value)[:20],
)
@pytest.mark.parametrize("name", ["respmsg", "resperr", "sysdtm", "brand_new", "chnlsn"])
def test_strange_values_beside_a_good_answer_do_no_harm(name: str, value: str) -> None:
    """A field that decides nothing may hold anything: the yes stays a yes, and what is kept can be stored."""
    fields = {key: each for key, each in json.loads(GOOD).items() if key != name}
    body = (json.dumps(fields)[:-1] + f', "{name}": {value}}}').encode()
    assert check(judge(entry_of(), Answer(200, {}, body), KEYS)).judgement is Judgement.EXECUTED


@pytest.mark.parametrize("name", ["0001-01-01 00:00:00", "9999-12-31 23:59:59", "2026-02-30 00:00:00"])
def test_a_strange_time_does_no_harm(name: str) -> None:
    """A time at the edge of the calendar cannot poison the entry it is stored with."""
    body = json.dumps(fields_for(entry_of(), sysdtm=name)).encode()
    assert check(judge(entry_of(), Answer(200, {}, body), KEYS)).system_time is None


_scalars: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(st.characters(), max_size=40),
    st.sampled_from(["0000", "1108", "1265", "1143", "500", "HKD", entry_of().syssn, "2026-03-16 04:30:06"]),
)
_values = st.recursive(
    _scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner), max_leaves=6
)
_names = st.sampled_from(sorted(fields_for(entry_of()))) | st.text(st.characters(), max_size=10)
_entries = st.sampled_from([entry_of(operation) for operation in Operation])


@settings(max_examples=300)
@given(_entries, st.integers(0, 999) | st.just(200), st.binary(max_size=400), st.text(st.characters(), max_size=40))
def test_any_status_bytes_and_signature_give_a_verdict(entry: Entry, status: int, body: bytes, signature: str) -> None:
    """Bytes at random never conclude, and never raise."""
    verdict = check(judge(entry, Answer(status, {"X-QF-SIGN": signature}, body), KEYS))
    assert verdict.judgement is (Judgement.NOT_SENT if status == 429 else Judgement.IN_DOUBT)


@settings(max_examples=200)
@given(_entries, st.dictionaries(_names, _values, max_size=6))
def test_an_altered_answer_executes_only_if_it_still_matches(entry: Entry, changes: dict[str, Any]) -> None:
    """Whatever is altered in a yes: it executes only with the same original, amount and currency and a new id."""
    fields = {**fields_for(entry), **changes}
    verdict = check(judge(entry, Answer(200, {}, json.dumps(fields).encode()), KEYS))
    if verdict.judgement is Judgement.EXECUTED:
        assert fields["respcd"] == "0000"
        assert fields["orig_syssn"] == entry.syssn
        assert fields["txcurrcd"] == entry.currency
        assert fields["txamt"] in ("500", 500)
        assert type(fields["txamt"]) in (str, int)
        assert verdict.result_syssn == str(fields["syssn"])
        assert verdict.result_syssn not in (entry.syssn, entry.authorization)
    if verdict.judgement is Judgement.DECLINED:
        assert fields["respcd"] in ("1108", "1265")


@settings(max_examples=300)
@given(_entries, st.integers(0, len(GOOD)), st.binary(min_size=1, max_size=3))
def test_a_garbled_answer_never_becomes_a_no(entry: Entry, position: int, noise: bytes) -> None:
    """A yes with bytes replaced anywhere is a yes or in doubt: noise does not free money."""
    good = json.dumps(fields_for(entry)).encode()
    body = good[:position] + noise + good[position + len(noise) :]
    verdict = check(judge(entry, Answer(200, {}, body), KEYS))
    assert verdict.judgement in (Judgement.EXECUTED, Judgement.IN_DOUBT)

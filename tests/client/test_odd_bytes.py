"""Any bytes at all as an answer: a verdict, never an exception that nobody explains."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from qfpay_preauth import Capture, Credentials, OutcomeUnknownError, PreauthClient, Settings, State
from tests.support import QUICK, sqlite_url

ANSWER = b'{"respcd":"0000","syssn":"2","orig_syssn":"1","txamt":"1000","txcurrcd":"HKD"}'


def http(body: bytes, *headers: bytes, first: bytes = b"HTTP/1.1 200 OK", length: bool = True) -> bytes:
    """An HTTP answer."""
    lines = [first, *headers, *([b"Content-Length: %d" % len(body)] if length else [])]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def chunked(body: bytes) -> bytes:
    """The same body in one chunk."""
    return b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


def with_field(field: bytes) -> bytes:
    """The answer with a field more."""
    return http(ANSWER[:-1] + b"," + field + b"}")


UNDERSTOOD = {
    "as_ever": http(ANSWER),
    "until_closed": http(ANSWER, first=b"HTTP/1.0 200 OK", length=False),
    "chunked": http(chunked(ANSWER), b"Transfer-Encoding: chunked", length=False),
    "continue": b"HTTP/1.1 100 Continue\r\n\r\n" + http(ANSWER),
    "early_hints": b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + http(ANSWER),
    "cookie": http(ANSWER, b"Set-Cookie: a=b"),
    "amount_as_int": http(ANSWER.replace(b'"1000"', b"1000")),
    "lone_surrogate": with_field(b'"respmsg":"\\ud800"'),
    "surrogate_name": with_field(b'"\\ud800":"x"'),
    "control_characters": with_field(b'"respmsg":"a\\u0000\\u001b[31m\\u202e"'),
}
DOUBTFUL = {
    "nothing": b"",
    "no_http": b"\x16\x03\x01\x02\x00 hello\r\n\r\n",
    "empty": http(b""),
    "no_content": http(b"", first=b"HTTP/1.1 204 No Content"),
    "strange_status": http(ANSWER, first=b"HTTP/1.1 999 x"),
    "created": http(ANSWER, first=b"HTTP/1.1 201 Created"),
    "refused_4xx": http(ANSWER, first=b"HTTP/1.1 404 Not Found"),
    "switching": http(ANSWER, first=b"HTTP/1.1 101 Switching Protocols"),
    "cut_until_closed": http(ANSWER[:40], first=b"HTTP/1.0 200 OK", length=False),
    "cut_chunk": http(chunked(ANSWER)[:-7], b"Transfer-Encoding: chunked", length=False),
    "bad_chunk": http(b"zz\r\n" + ANSWER, b"Transfer-Encoding: chunked", length=False),
    "two_lengths": http(chunked(ANSWER), b"Transfer-Encoding: chunked"),
    "negative_length": http(ANSWER, b"Content-Length: -5", length=False),
    "bad_header": http(ANSWER, b"\x00bad"),
    "long_header": http(ANSWER, b"X: " + b"a" * 100_000),
    "gzip": http(gzip.compress(ANSWER), b"Content-Encoding: gzip"),
    "deep": http(b"[" * 100_000 + b"]" * 100_000),
    "deep_objects": http(b'{"a":' * 40_000 + b"1" + b"}" * 40_000),
    "scalar": http(b'"0000"'),
    "list": http(b"[" + ANSWER + b"]"),
    "duplicate_key": with_field(b'"respcd":"0000"'),
    "nan": with_field(b'"x":NaN'),
    "infinity": with_field(b'"x":1e999'),
    "huge_int": with_field(b'"x":' + b"9" * 5_000),
    "byte_order_mark": http(b"\xef\xbb\xbf" + ANSWER),
    "not_utf8": http(b"\xff" + ANSWER),
    "trailing": http(ANSWER + b"xx"),
    "signature_of_garbage": http(ANSWER, b"X-QF-SIGN: \xff\xfe"),
    "code_with_newline": http(ANSWER.replace(b'"0000"', b'"0000\\r\\n"')),
    "full_width_code": http(ANSWER.replace(b'"0000"', "\uff10\uff10\uff10\uff10".join('""').encode())),
    "bool_amount": http(ANSWER.replace(b'"1000"', b"true")),
    "float_amount": http(ANSWER.replace(b'"1000"', b"1000.0")),
    "leading_zero": http(ANSWER.replace(b'"1000"', b'"01000"')),
    "own_syssn": http(ANSWER.replace(b'"syssn":"2"', b'"syssn":"1"')),
    "blank_syssn": http(ANSWER.replace(b'"syssn":"2"', b'"syssn":" "')),
}


@contextlib.asynccontextmanager
async def answering(
    folder: Path, answers: Callable[[int], bytes], keep: bool = False
) -> AsyncIterator[tuple[PreauthClient, list[bytes]]]:
    """A client with a hold "1" on a server that answers the n-th request with `answers(n)`; the bodies received."""
    bodies: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                bodies.append(await reader.readexactly(length))
                writer.write(answers(len(bodies)))
                await writer.drain()
                if not keep:
                    break
        writer.close()

    listener = await asyncio.start_server(talk, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    client = PreauthClient(
        Credentials("APP", "KEY"),
        base_url=url,
        ledger=sqlite_url(folder),
        settings=Settings(**QUICK, timeout_total_s=5),
    )
    async with client:
        await client.register_authorization("1", 50_000, "HKD", out_trade_no="O1")
        yield client, bodies
    listener.close()


@pytest.mark.parametrize("name", sorted(UNDERSTOOD))
async def test_what_is_understood(tmp_path: Path, name: str) -> None:
    """Every way in which HTTP and JSON may say the same is read; texts are made printable."""
    async with answering(tmp_path, lambda _: UNDERSTOOD[name]) as (client, bodies):
        result = await client.capture("1", 1_000, idempotency_key="k")
        assert (result.syssn, result.amount, len(bodies)) == ("2", 1_000, 1)
        assert (result.message or "x").isprintable()
        again = await client.capture("1", 1_000, idempotency_key="k")
        assert (again.replayed, again.raw) == (True, result.raw)


@pytest.mark.parametrize("name", sorted(DOUBTFUL))
async def test_what_leaves_doubt(tmp_path: Path, name: str) -> None:
    """Whatever else comes back leaves doubt: one request, the claim kept, the doubt listed and readable."""
    async with answering(tmp_path, lambda _: DOUBTFUL[name]) as (client, bodies):
        for _ in range(2):
            with pytest.raises(OutcomeUnknownError) as caught:
                await client.capture("1", 1_000, idempotency_key="k")
        assert len(bodies) == 1
        assert (await client.balance("1")).in_doubt == 1_000
        (doubt,) = [each async for each in client.in_doubt()]
        assert len(doubt.tried) < 1_000
        assert len(str(caught.value)) < 1_000
        entry = await client.entry("k")
        assert entry is not None
        assert entry.state is State.IN_DOUBT


@pytest.mark.parametrize("keep", [True, False])
async def test_an_answer_that_comes_twice(tmp_path: Path, keep: bool) -> None:
    """A second copy of an answer on a kept connection is never the next request's answer."""
    async with answering(tmp_path, lambda _: http(ANSWER) * 2, keep) as (client, bodies):
        assert isinstance(await client.capture("1", 1_000, idempotency_key="first"), Capture)
        with pytest.raises(OutcomeUnknownError, match="belongs to"):
            await client.capture("1", 1_000, idempotency_key="second")
        assert len(bodies) == 2
        assert (await client.balance("1")).captured == 1_000
        assert (await client.balance("1")).in_doubt == 1_000

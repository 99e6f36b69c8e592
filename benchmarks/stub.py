"""The gateway's stand-in: a process of its own that answers as cheaply as it can, and is never the bottleneck.

    python -m benchmarks.stub

A capture gets the answer of QFPay's sample with its own original, amount and currency and a fresh syssn; an enquiry
gets its page of the rows that were put there, and /enquiries tells how many there were since; everything else (the
peers' requests) one fixed answer.
"""

from __future__ import annotations

import asyncio
import bisect
import json
from collections.abc import Callable
from importlib import import_module
from itertools import count
from urllib.parse import parse_qsl

_HEAD = (
    b"HTTP/1.1 200 OK\r\nServer: stub\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\n"
    b"Content-Type: application/json; charset=utf-8\r\nConnection: keep-alive\r\nContent-Length: "
)
_CAPTURED = (
    '{"sysdtm":"2026-01-01 15:04:12","paydtm":"2026-01-01 15:04:12","udid":"qiantai2","txcurrcd":"%s",'
    '"txdtm":"2026-01-01 07:04:11","txamt":"%s","resperr":"交易成功","respmsg":"Capture received","out_trade_no":"",'
    '"syssn":"2026010118050002%012d","orig_syssn":"%s","respcd":"0000","chnlsn":"","cardcd":""}'
)
# what the peers' libraries take for an answer of their own service
_OTHER = b'{"id":"pi_1","object":"payment_intent","amount":1000,"currency":"hkd","status":"succeeded"}'

_numbers = count(1)
_rows: list[dict[str, str]] = []
_asked = 0


def answer(path: bytes, body: bytes) -> bytes:
    """The whole answer to one request."""
    if path == b"/trade/v1/authtrade":
        asked = dict(pair.split("=", 1) for pair in body.decode().split("&"))
        given = (asked["txcurrcd"], asked["txamt"], next(_numbers), asked["syssn"])
        content = (_CAPTURED % given).encode()
    elif path == b"/trade/v1/query":
        content = _page(dict(parse_qsl(body.decode())))
    elif path == b"/rows":
        content = _put(json.loads(body))
    elif path == b"/enquiries":
        content = b"%d" % _asked
    else:
        content = _OTHER
    return b"%b%d\r\n\r\n%b" % (_HEAD, len(content), content)


def _put(rows: list[dict[str, str]]) -> bytes:
    global _asked  # noqa: PLW0603 - the process is the stub
    _asked = 0
    _rows[:] = sorted(rows, key=_moment)
    return b"{}"


def _page(asked: dict[str, str]) -> bytes:
    global _asked  # noqa: PLW0603 - as above
    _asked += 1
    first = (int(asked["page"]) - 1) * int(asked["page_size"])
    page = _found(asked)[first : first + int(asked["page_size"])]
    return json.dumps({"respcd": "0000", "resperr": "", "data": page}).encode()


def _found(asked: dict[str, str]) -> list[dict[str, str]]:
    """The rows of the window; with ids, those of them that the enquiry names."""
    start = bisect.bisect_left(_rows, asked["start_time"], key=_moment)
    rows = _rows[start : bisect.bisect_right(_rows, asked["end_time"], key=_moment)]
    for name in ("syssn", "out_trade_no"):
        if name in asked:
            named = set(asked[name].split(","))
            rows = [row for row in rows if row.get(name) in named]
    return rows


def _moment(row: dict[str, str]) -> str:
    return row["sysdtm"]


class Stub(asyncio.Protocol):
    """One connection; requests come whole or in pieces, one after another."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._write: Callable[[bytes], None] = transport.write  # type: ignore[attr-defined]
        self._waiting = b""

    def data_received(self, data: bytes) -> None:
        data = self._waiting + data
        while (end := data.find(b"\r\n\r\n")) >= 0:
            head = data[:end]
            where = head.lower().find(b"content-length: ")
            length = int(head[where + 16 :].split(b"\r\n", 1)[0]) if where >= 0 else 0
            whole = end + 4 + length
            if len(data) < whole:
                break
            self._write(answer(head.split(b" ", 2)[1], data[end + 4 : whole]))
            data = data[whole:]
        self._waiting = data


async def _serve() -> None:
    server = await asyncio.get_running_loop().create_server(Stub, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def main() -> None:
    """Serve until killed, on uvloop where it is installed."""
    try:
        factory: Callable[[], asyncio.AbstractEventLoop] = import_module("uvloop").new_event_loop
    except ImportError:
        factory = asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(_serve())


if __name__ == "__main__":
    main()

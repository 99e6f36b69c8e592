"""What makes a request acceptable: signature, account, parameters, method, limits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qfpay_preauth.testing import Config, Core, Gateway
from qfpay_preauth.testing._protocol import sign_body, sign_params

from .conftest import Clock
from .kit import Merchant, signature

VECTOR_PARAMS = {"mchid": "ZaMVg12345", "txamt": "100", "txcurrcd": "HKD"}


def test_signatures_agree_with_known_ones() -> None:
    """MD5 and SHA256 of a request, and MD5 of QFPay's published answer."""
    assert sign_params(VECTOR_PARAMS, "abcd1234", "MD5") == "3CB3AA9C21D818AB4CAFAA8FA3FEACF4"
    assert sign_params(VECTOR_PARAMS, "abcd1234", "SHA256").startswith("99D9F7174823928B74C74B1C7A7E1538")
    body = (
        rb'{"pay_type": "800108", "sysdtm": "2018-01-12 19:31:16", "cardcd": "2088802362210279", '
        rb'"txdtm": "2018-01-12 19:31:22", "resperr": "\u4ea4\u6613\u6210\u529f", "txcurrcd": "CNY", '
        rb'"txamt": "1", "respmsg": "", "out_trade_no": "130145934788787530052", '
        rb'"syssn": "20180112000100020001662134", "respcd": "0000"}'
    )
    assert sign_body(body, "615ED178BA524459976CE40FAB78000F") == "1E2CE7C2A7F8F581C354A857182B7A31"


@pytest.mark.parametrize("sign_type", ["MD5", "SHA256"])
async def test_both_hashes_are_accepted(gateway: Gateway, merchant: Merchant, sign_type: str) -> None:
    """X-QF-SIGNTYPE chooses the hash."""
    params = {"syssn": gateway.hold(1_000), "txamt": "100"}
    answer = await merchant.ask("capture", merchant.headers(params, sign_type), **params)
    assert answer["respcd"] == "0000"


async def test_without_a_sign_type_md5_is_meant(gateway: Gateway, merchant: Merchant) -> None:
    """An absent X-QF-SIGNTYPE is MD5, so a SHA256 signature then fails."""
    params = {"syssn": gateway.hold(1_000), "txamt": "100"}
    for sign_type, code in (("MD5", "0000"), ("SHA256", "1108")):
        headers = merchant.headers(params, sign_type)
        del headers["X-QF-SIGNTYPE"]
        assert (await merchant.ask("capture", headers, **params))["respcd"] == code


async def test_a_hash_can_be_withdrawn(gateway: Gateway, merchant: Merchant) -> None:
    """Some channels take only one hash: the other is a signature error."""
    gateway.config.sign_types = frozenset({"MD5"})
    assert (await merchant.capture(gateway.hold(1_000), 100))["respcd"] == "1108"


@pytest.mark.parametrize("sign", ["", "0" * 64, "lower"])
async def test_a_wrong_signature_moves_nothing(gateway: Gateway, merchant: Merchant, sign: str) -> None:
    """Missing, wrong or lower-case signatures get 1108 and no execution."""
    params = {"syssn": gateway.hold(1_000), "txamt": "100"}
    headers = merchant.headers(params)
    headers["X-QF-SIGN"] = headers["X-QF-SIGN"].lower() if sign == "lower" else sign
    assert (await merchant.ask("capture", headers, **params))["respcd"] == "1108"
    assert gateway.books.executions() == ()
    assert not gateway.requests[-1].signature_ok


async def test_values_are_signed_raw(gateway: Gateway, merchant: Merchant) -> None:
    """Blanks, plus signs, Chinese and percent signs survive the form and the signature."""
    params = {"txamt": "1000", "pay_type": "802801", "out_trade_no": "A1", "goods_name": "雞 + 100% & more=1"}
    assert await merchant.code("create_payment_intent", **params) == "0000"
    assert gateway.requests[-1].params == params


async def test_a_rotated_key_is_accepted_beside_the_new_one(gateway: Gateway, merchant: Merchant) -> None:
    """During a rotation both keys work; afterwards only the new one."""
    params = {"syssn": gateway.hold(1_000), "txamt": "100"}
    old = merchant.headers(params)
    gateway.config.other_keys = (gateway.client_key,)
    gateway.client_key = "NEW"
    assert (await merchant.ask("capture", old, **params))["respcd"] == "0000"
    assert (await merchant.ask("capture", **params))["respcd"] == "0000"
    gateway.config.other_keys = ()
    assert (await merchant.ask("capture", old, **params))["respcd"] == "1108"


async def test_the_app_code_must_be_known(gateway: Gateway, merchant: Merchant) -> None:
    """Credentials of another environment fail."""
    syssn = gateway.hold(1_000)
    headers = {"X-QF-APPCODE": "OTHER", "X-QF-SIGN": "x"}
    answer = await merchant.ask("capture", headers, syssn=syssn, txamt="100")
    assert answer["respcd"] == "1106"


async def test_mchid_is_sent_exactly_if_assigned(gateway: Gateway, merchant: Merchant) -> None:
    """Missing, superfluous and wrong mchid are refused; the assigned one is accepted."""
    syssn = gateway.hold(1_000)
    assert (await merchant.capture(syssn, 100, mchid="M1"))["respcd"] == "1107"
    gateway.mchid = "M1"
    assert (await merchant.capture(syssn, 100))["respcd"] == "1104"
    assert (await merchant.capture(syssn, 100, mchid="M2"))["respcd"] == "1107"
    assert (await merchant.capture(syssn, 100, mchid="M1"))["respcd"] == "0000"


GOOD = {
    "capture": {"syssn": "1", "txamt": "100"},
    "unfreeze": {"syssn": "1", "txamt": "100", "txdtm": "2026-01-01 00:00:00", "out_trade_no": "A"},
    "refund": {"syssn": "1", "txamt": "100", "txdtm": "2026-01-01 00:00:00", "out_trade_no": "A"},
    "create_payment_intent": {"txamt": "100", "pay_type": "802801", "out_trade_no": "A"},
}


@pytest.mark.parametrize(("operation", "name"), [(op, name) for op, good in GOOD.items() for name in good])
async def test_every_required_parameter_is_required(merchant: Merchant, operation: str, name: str) -> None:
    """Leaving out or emptying any one of them gets 1104."""
    params = {key: value for key, value in GOOD[operation].items() if key != name}
    assert await merchant.code(operation, **params) == "1104"
    assert await merchant.code(operation, **params, **{name: ""}) == "1104"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("txamt", text) for text in ("0", "-1", "1.0", "01", "1e3", "\uff11", "100000000000", "abc")),
        *(("txdtm", text) for text in ("2026-01-01", "2026-02-30 00:00:00", "2026-1-1 00:00:00", "now")),
        *(("txcurrcd", text) for text in ("hkd", "XXX")),
        *(("syssn", text) for text in ("1,2", "1 2", "1" * 129)),
        ("notify", ""),
    ],
)
async def test_malformed_values_are_refused(merchant: Merchant, name: str, value: str) -> None:
    """Amounts, times, currencies and ids have a syntax; empty values are never right."""
    assert await merchant.code("refund", **{**GOOD["refund"], name: value}) == "1104"


@pytest.mark.parametrize("body", [b"txamt=1&txamt=2", b"nonsense", b"a=%FF", b"\xff=1"])
async def test_what_is_no_form_is_refused(gateway: Gateway, merchant: Merchant, body: bytes) -> None:
    """Repeated names, bare words and bytes that are no UTF-8 are format errors."""
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    async with merchant.session.post(gateway.url + "/trade/v1/refund", data=body, headers=headers) as answer:
        assert (await answer.json())["respcd"] == "1103"


async def test_json_bodies_are_refused(gateway: Gateway, merchant: Merchant) -> None:
    """The content type must be a form's."""
    headers = merchant.headers({}) | {"Content-Type": "application/json"}
    async with merchant.session.post(gateway.url + "/trade/v1/query", headers=headers) as answer:
        assert (await answer.json())["respcd"] == "1103"


async def test_unknown_paths_and_methods(gateway: Gateway, merchant: Merchant) -> None:
    """404 for what QFPay does not have, 405 for GET; the simulator's own endpoints are off."""
    for path in ("/trade/v1/close", "/_sim/books"):
        async with merchant.session.post(gateway.url + path) as answer:
            assert answer.status == 404
    async with merchant.session.get(gateway.url + "/trade/v1/query?page=1") as answer:
        assert answer.status == 405


async def test_every_request_is_recorded(gateway: Gateway, merchant: Merchant, clock: Clock) -> None:
    """The record tells when, what, by whom, and what came of it."""
    syssn = gateway.hold(1_000)
    answer = await merchant.capture(syssn, 100)
    request = gateway.requests[0]
    assert (request.at, request.method, request.path) == (clock.now, "POST", "/trade/v1/authtrade")
    assert (request.operation, request.params) == ("capture", {"syssn": syssn, "txamt": "100"})
    assert request.headers["x-qf-appcode"] == gateway.app_code
    assert request.remote.startswith("127.0.0.1:")
    assert (request.signature_ok, request.fault, request.executed) == (True, None, answer["syssn"])
    gateway.config.record = False
    await merchant.capture(syssn, 100)
    assert len(gateway.requests) == 1


async def test_answers_are_signed_on_demand(gateway: Gateway, merchant: Merchant) -> None:
    """X-QF-SIGN = MD5 of the raw body and the key, only if configured."""
    for wanted in (False, True):
        gateway.config.sign_answers = wanted
        async with merchant.post("query") as answer:
            body = await answer.read()
            assert answer.headers.get("X-QF-SIGN") == (sign_body(body, gateway.client_key) if wanted else None)


async def test_the_rate_limit_slides_over_second_and_minute(gateway: Gateway, merchant: Merchant, clock: Clock) -> None:
    """Above either limit the answer is 429 and nothing is executed; time alone lifts it."""
    gateway.config.rate_limit, gateway.config.per_second, gateway.config.per_minute = True, 2, 3

    async def status() -> int:
        async with merchant.post("query") as answer:
            return int(answer.status)

    assert [await status() for _ in range(3)] == [200, 200, 429]
    clock.move(seconds=1)
    assert [await status() for _ in range(2)] == [200, 429]
    clock.move(seconds=58)
    assert await status() == 429
    clock.move(seconds=1)
    assert [await status() for _ in range(3)] == [200, 200, 429]


def test_the_core_needs_no_socket(clock: Clock) -> None:
    """A request and the time go in, a plan comes out; the same run gives the same bytes."""

    def run() -> bytes:
        core = Core(Config())
        params = {"syssn": core.books.hold(1_000, "HKD", clock.now).syssn, "txamt": "100"}
        headers = {
            "Content-Type": "application/x-www-form-urlencoded",
            "X-QF-AppCode": core.config.app_code,
            "X-QF-Sign": signature(params, core.config.client_key, "MD5"),
        }
        body = "&".join("=".join(pair) for pair in params.items()).encode()
        plan = core.handle("POST", "/trade/v1/authtrade", headers, body, clock.now)
        assert plan.answer is not None
        assert plan.executed == json.loads(plan.answer.body)["syssn"]
        return plan.answer.body

    assert run() == run()


def test_the_witness_is_independent() -> None:
    """No module of the simulator mentions the client's rooms."""
    import qfpay_preauth.testing.gateway as home

    folder = Path(home.__file__).parent
    for name in (
        "_books",
        "_core",
        "_protocol",
        "_query",
        "_faults",
        "_spoil",
        "_server",
        "gateway",
        "simulate",
    ):
        text = (folder / f"{name}.py").read_text()
        assert "from .." not in text
        assert "qfpay_preauth" not in text
        assert "aiohttp" not in text

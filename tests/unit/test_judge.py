"""The judge: only a listed code, under HTTP 200, that matches the question, ends an entry."""

from __future__ import annotations

import json
from typing import Any

import pytest

from qfpay_preauth._models import Answer, Judgement, NotSent, Operation, Unknown, Verdict
from qfpay_preauth._signing import Signer
from qfpay_preauth._wire import judge

from .kit import CLIENT_KEY, HOLD, NOW, OWN, PAN, REFUND_NUMBER, TAKEN, entry_of, fields_for, judged

# gateway.md's table, written out again on purpose: a slip in _codes.py must not repeat itself here
DONE = {"0000"}
_NOT_AGAIN = """
1103 1104 1105 1106 1107 1108 1109 1110 1124 1126 1129 1130 1136 1150 1151 1152 1153 1180
1241 1242 1243 1261 1266 1267 1268 1270 1271 1272 2001 2002 2003 2004 2006 2008 2012
"""
NOT_AGAIN = {
    *_NOT_AGAIN.split(),
    *(str(code) for code in range(1113, 1124)),
    *(str(code) for code in range(1132, 1136)),
    *(str(code) for code in range(1137, 1142)),
}
NOT_NOW = {"1265", "1269"}
FOR_GOOD = {"1155", "1181", "1201", "1202", "1203", "1212", "1250", "1294", "2005", "2007"}
SET_UP = {"1105", "1106", "1107", "1108", "1241", "1242", "1243"}
FLAGGING = {"1136", "1261", "1266", "1267", "1268"}
PENDING = {"1143", "1145", "1161", "1295", "1296", "1298", "2999"}
TOO_OLD = "已經超出可退款時限"


@pytest.mark.parametrize("operation", Operation)
def test_of_all_codes_only_the_listed_ones_conclude(operation: Operation) -> None:
    """Of 10,000 codes in an otherwise matching answer, S executes, N, R and D decline, and all others leave doubt."""
    entry = entry_of(operation)
    found: dict[Judgement, set[str]] = {each: set() for each in Judgement}
    for number in range(10_000):
        code = f"{number:04}"
        found[judged(entry, fields_for(entry, code)).judgement].add(code)
    assert found[Judgement.EXECUTED] == DONE
    assert found[Judgement.DECLINED] == NOT_AGAIN | NOT_NOW | FOR_GOOD
    assert found[Judgement.NOT_SENT] == set()
    assert len(found[Judgement.IN_DOUBT]) == 10_000 - len(DONE | NOT_AGAIN | NOT_NOW | FOR_GOOD)
    assert found[Judgement.IN_DOUBT] >= PENDING


def test_which_refusals_may_run_again_and_which_flag_the_hold() -> None:
    """Class R and our own set-up may run again with the same key; contradictions of our books flag the hold."""
    verdicts = {code: judged(entry_of(), fields_for(entry_of(), code)) for code in NOT_AGAIN | NOT_NOW | FOR_GOOD}
    assert {code for code, verdict in verdicts.items() if verdict.rerunnable} == SET_UP | NOT_NOW
    assert {code for code, verdict in verdicts.items() if verdict.flags_authorization} == FLAGGING
    assert not any(verdict.mismatch for verdict in verdicts.values())


@pytest.mark.parametrize(
    "code", ["", "0", "00000", " 0000", "0000 ", "0000\n", "0x00", "1265.0", "交易", "1108 ", "١١٠٨"]
)
def test_codes_that_only_look_like_listed_ones_leave_doubt(code: str) -> None:
    """A code is compared exactly: spaces, other lengths and other digits make it an unlisted one."""
    assert judged(entry_of(), fields_for(entry_of(), code)).judgement is Judgement.IN_DOUBT


@pytest.mark.parametrize("code", [0, 1108, 1108.0, True, None, ["0000"], {"respcd": "0000"}])
def test_a_code_that_is_no_text_leaves_doubt(code: object) -> None:
    """Codes are text in every answer QFPay documents; anything else says nothing sure."""
    fields = {**fields_for(entry_of()), "respcd": code}
    assert judged(entry_of(), fields).judgement is Judgement.IN_DOUBT


@pytest.mark.parametrize("operation", Operation)
def test_a_matching_yes_executes_with_its_own_id(operation: Operation) -> None:
    """0000 with orig_syssn, amount and currency as asked and a new syssn is executed, by the answer."""
    entry = entry_of(operation)
    verdict = judged(entry, fields_for(entry, respmsg="Capture received", resperr="交易成功"))
    assert verdict == Verdict(
        Judgement.EXECUTED,
        code="0000",
        message="Capture received / 交易成功",
        result_syssn=OWN,
        system_time=NOW.replace(second=6),
        raw={name: value for name, value in fields_for(entry, resperr="交易成功").items() if name != "cardcd"}
        | {"respmsg": "Capture received"},
    )


OTHER_ORIGINALS: list[Any] = [TAKEN + "9", HOLD + " ", " " + HOLD, OWN, 0, [HOLD], False]
OTHER_AMOUNTS: list[Any] = [
    *("501", "5.00", "500.0", "0500", " 500", "500 ", "+500", "5e2", "-500", "\u0665\u0660\u0660", "1" * 400),
    *(501, 0, -500, 500.0, True, False, [], {}, ["500"], {"a": 1}, 10**400),
]
OTHER_CURRENCIES: list[Any] = ["USD", "hkd", " HKD", "HKD\n", "HKDD", 344, True, []]


@pytest.mark.parametrize("code", ["0000", "1108", "1143", "1155", "1265", "1136", "9999"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("orig_syssn", value) for value in OTHER_ORIGINALS],
        *[("txamt", value) for value in OTHER_AMOUNTS],
        *[("txcurrcd", value) for value in OTHER_CURRENCIES],
    ],
)
def test_an_answer_to_another_question_never_concludes(code: str, name: str, value: object) -> None:
    """Another original, amount or currency, yes or no, leaves doubt, is a mismatch, and links no syssn."""
    verdict = judged(entry_of(), fields_for(entry_of(), code) | {name: value})
    assert verdict.judgement is Judgement.IN_DOUBT
    assert verdict.mismatch
    assert verdict.result_syssn is None
    assert name in (verdict.detail or "")


def test_an_amount_may_come_as_a_json_int() -> None:
    """500 and "500" are the same amount."""
    assert judged(entry_of(), fields_for(entry_of(), txamt=500)).judgement is Judgement.EXECUTED


@pytest.mark.parametrize("name", ["orig_syssn", "txamt", "txcurrcd", "syssn"])
@pytest.mark.parametrize("empty", [None, ""])
def test_a_yes_that_does_not_say_of_what_leaves_doubt(name: str, empty: object) -> None:
    """A yes must echo original, amount and currency and name its own syssn; null and empty are as good as absent."""
    complete = fields_for(entry_of())
    absent = {key: value for key, value in complete.items() if key != name}
    for fields in (absent, complete | {name: empty}):
        verdict = judged(entry_of(), fields)
        assert verdict.judgement is Judgement.IN_DOUBT
        assert verdict.mismatch
        assert name in (verdict.detail or "")


@pytest.mark.parametrize("code", ["1108", "1265", "1155", "1266"])
def test_a_refusal_need_not_echo_the_question(code: str) -> None:
    """A listed refusal counts without any echo: only a contradiction takes its force."""
    assert judged(entry_of(), {"respcd": code, "respmsg": "no"}).judgement is Judgement.DECLINED
    blank = {"respcd": code, "orig_syssn": "", "txamt": None, "txcurrcd": ""}
    assert judged(entry_of(), blank).judgement is Judgement.DECLINED


@pytest.mark.parametrize(
    ("operation", "old"),
    [
        (Operation.REFUND, TAKEN),
        *[(each, old) for each in Operation for old in (HOLD, "a,b", "x" * 129, "a b", 1.5, True, ["x"])],
    ],
)
def test_a_yes_without_a_new_id_leaves_doubt(operation: Operation, old: Any) -> None:
    """A yes whose syssn is the authorization's, the refunded capture's or no id at all is not believed."""
    entry = entry_of(operation)
    verdict = judged(entry, fields_for(entry, syssn=old))
    assert verdict.judgement is Judgement.IN_DOUBT
    assert verdict.mismatch
    assert verdict.result_syssn is None


@pytest.mark.parametrize("code", ["0000", "1265", "1143"])
@pytest.mark.parametrize("number", ["F" * 32, REFUND_NUMBER.lower(), REFUND_NUMBER + "0", 1, True])
def test_a_refund_with_another_number_never_concludes(code: str, number: Any) -> None:
    """A refund's answer that carries another out_trade_no belongs to another refund."""
    entry = entry_of(Operation.REFUND)
    verdict = judged(entry, fields_for(entry, code, out_trade_no=number))
    assert verdict.judgement is Judgement.IN_DOUBT
    assert verdict.mismatch


@pytest.mark.parametrize("operation", [Operation.CAPTURE, Operation.UNFREEZE])
@pytest.mark.parametrize("number", ["", "ANY-OTHER", "null"])
def test_the_number_in_other_answers_says_nothing(operation: Operation, number: str) -> None:
    """QFPay's capture answer shows an empty out_trade_no: only a refund's has to agree."""
    entry = entry_of(operation)
    assert judged(entry, fields_for(entry, out_trade_no=number)).judgement is Judgement.EXECUTED


@pytest.mark.parametrize("where", ["respmsg", "resperr"])
def test_not_refundable_now_is_final_when_the_time_is_over(where: str) -> None:
    """1265 may run again later, unless its text says that the time for refunds is over."""
    entry = entry_of(Operation.REFUND)
    assert judged(entry, fields_for(entry, "1265")).rerunnable
    verdict = judged(entry, fields_for(entry, "1265", **{where: f"({TOO_OLD})"}))
    assert (verdict.judgement, verdict.rerunnable) == (Judgement.DECLINED, False)
    other = judged(entry, fields_for(entry, "1269", **{where: TOO_OLD}))
    assert other.rerunnable


@pytest.mark.parametrize("code", sorted(PENDING))
def test_a_pending_answer_is_remembered_by_its_id(code: str) -> None:
    """A pending answer that names its original leaves doubt, and its syssn links the row to come."""
    verdict = judged(entry_of(), fields_for(entry_of(), code))
    assert (verdict.judgement, verdict.result_syssn, verdict.mismatch) == (Judgement.IN_DOUBT, OWN, False)
    assert verdict.code == code


@pytest.mark.parametrize("changes", [{"orig_syssn": ""}, {"orig_syssn": None}, {"syssn": HOLD}, {"syssn": ""}])
def test_a_pending_answer_that_names_no_original_links_nothing(changes: dict[str, Any]) -> None:
    """Without the original, or without a new id, a swapped answer could link a stranger's row: nothing is kept."""
    fields = {**fields_for(entry_of(), "1143"), **changes}
    verdict = judged(entry_of(), fields)
    assert (verdict.judgement, verdict.result_syssn) == (Judgement.IN_DOUBT, None)


@pytest.mark.parametrize(("code", "under_200"), [("0000", Judgement.EXECUTED), ("1108", Judgement.DECLINED)])
def test_no_other_status_than_200_concludes(code: str, under_200: Judgement) -> None:
    """A perfect answer under any other status leaves doubt; HTTP 429 alone is a sure "not processed"."""
    said = {
        status: judged(entry_of(), fields_for(entry_of(), code), status).judgement
        for status in (*range(100, 600), 0, -1, 999)
    }
    assert said.pop(200) is under_200
    assert said.pop(429) is Judgement.NOT_SENT
    assert set(said.values()) == {Judgement.IN_DOUBT}


@pytest.mark.parametrize("status", [201, 204, 302, 307, 400, 401, 403, 500, 502, 504])
def test_a_refusal_under_another_status_is_no_refusal(status: int) -> None:
    """A listed refusal counts under HTTP 200 only."""
    verdict = judged(entry_of(), fields_for(entry_of(), "1108"), status)
    assert verdict.judgement is Judgement.IN_DOUBT
    assert str(status) in (verdict.detail or "")


def test_what_was_not_sent_may_run_again() -> None:
    """NotSent and 429 are not_sent and re-runnable; Unknown is in doubt."""
    assert judge(entry_of(), NotSent("refused"), []) == Verdict(Judgement.NOT_SENT, detail="refused", rerunnable=True)
    limited = judge(entry_of(), Answer(429, {}, b""), [])
    assert (limited.judgement, limited.code, limited.rerunnable) == (Judgement.NOT_SENT, "429", True)
    assert judge(entry_of(), Unknown("cut"), []) == Verdict(Judgement.IN_DOUBT, detail="cut")


_CURRENT, _PREVIOUS = Signer(CLIENT_KEY), Signer("the-previous-key")


@pytest.mark.parametrize("code", ["0000", "1108", "1265"])
@pytest.mark.parametrize("signer", [_CURRENT, _PREVIOUS, None])
@pytest.mark.parametrize("spell", [str.upper, str.lower])
def test_an_answer_signed_rightly_or_not_at_all_counts(code: str, signer: Signer | None, spell: Any) -> None:
    """No signature is accepted, and so is one by the current or the previous key, in any hex case."""
    body = json.dumps(fields_for(entry_of(), code)).encode()
    headers = {"X-QF-SIGN": spell(signer.sign_body(body))} if signer else {}
    verdict = judge(entry_of(), Answer(200, headers, body), [_CURRENT, _PREVIOUS])
    assert verdict.judgement is (Judgement.EXECUTED if code == "0000" else Judgement.DECLINED)


@pytest.mark.parametrize("code", ["0000", "1108", "1143"])
@pytest.mark.parametrize("signature", ["0" * 32, "x", "\udcff", "交", Signer("other").sign_body(b"")])
def test_an_answer_signed_wrongly_never_concludes(code: str, signature: str) -> None:
    """A wrong signature on a yes or a no leaves doubt, and its syssn is not remembered."""
    body = json.dumps(fields_for(entry_of(), code)).encode()
    verdict = judge(entry_of(), Answer(200, {"X-QF-SIGN": signature}, body), [_CURRENT, _PREVIOUS])
    assert (verdict.judgement, verdict.mismatch, verdict.result_syssn) == (Judgement.IN_DOUBT, True, None)


def test_without_the_previous_key_its_signature_is_wrong() -> None:
    """Only the keys that were given are accepted."""
    body = json.dumps(fields_for(entry_of())).encode()
    answer = Answer(200, {"X-QF-SIGN": _PREVIOUS.sign_body(body)}, body)
    assert judge(entry_of(), answer, [_CURRENT]).judgement is Judgement.IN_DOUBT


@pytest.mark.parametrize("code", ["0000", "1108", "1143"])
def test_no_card_data_stays_in_a_verdict(code: str) -> None:
    """Card fields go, card numbers in messages and unknown fields are starred out, ids stay as they came."""
    strange = {
        "cardcd": PAN,
        "card_holder": "A",
        "note": f"card {PAN}",
        "respmsg": f"card {PAN} said no",
        "resperr": PAN,
    }
    verdict = judged(entry_of(), fields_for(entry_of(), code, **strange))
    shown = f"{verdict.raw} {verdict.message} {verdict.detail} {verdict!r}"
    assert PAN not in shown
    assert "cardcd" not in shown
    assert "card_holder" not in shown
    assert (verdict.raw or {})["syssn"] == OWN
    assert (verdict.raw or {})["orig_syssn"] == HOLD
    assert (verdict.raw or {})["note"] == "card " + "*" * 16


def test_the_repr_of_a_verdict_leaves_the_raw_fields_out() -> None:
    """A verdict in a log line shows the judgement, not the whole answer."""
    assert "sysdtm" not in repr(judged(entry_of(), fields_for(entry_of())))

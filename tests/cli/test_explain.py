"""Why a signature does not fit: each usual mistake is named, alone and two at a time. Pure."""

from __future__ import annotations

import hashlib
import hmac
from urllib.parse import quote, quote_plus

import pytest

from qfpay_preauth._explain import CHECK_NEXT, explain, explain_body, masked
from tests.vectors import V1_KEY as KEY
from tests.vectors import V1_PARAMS, V1_SIGNATURE, V2_BODY, V2_KEY, V2_SIGNATURE

CLIENT_KEY = "AbCd1234efGH"
PAIRS = [("txcurrcd", "HKD"), ("txamt", "100"), ("Mchid", "Z a"), ("goods", "50% off ")]
RIGHT = "Mchid=Z a&goods=50% off &txamt=100&txcurrcd=HKD"


def made(text: str, sign_type: str = "SHA256") -> str:
    """The hash of a signing string that a mistaken program built, key included."""
    return hashlib.new(sign_type.lower(), text.encode()).hexdigest()


def test_golden_vector_v1_matches_as_published() -> None:
    """Lower-case hex, an empty parameter and a trailing blank are all taken as given."""
    found = explain(list(V1_PARAMS.items()), KEY, V1_SIGNATURE)
    assert found.matches
    assert found.expected == V1_SIGNATURE.upper()
    assert any("channel_type" in note for note in found.notes)


def test_golden_vector_v2_matches_as_published() -> None:
    """A notification's raw body and key, in any hex case."""
    assert explain_body(V2_BODY, V2_KEY, V2_SIGNATURE).matches
    assert explain_body(V2_BODY, V2_KEY, V2_SIGNATURE.lower()).matches


@pytest.mark.parametrize("sign_type", ["MD5", "SHA256"])
@pytest.mark.parametrize(
    ("text", "named"),
    [
        (f"Mchid={quote('Z a')}&goods={quote('50% off ')}&txamt=100&txcurrcd=HKD{CLIENT_KEY}", "percent-encoded"),
        (f"Mchid={quote_plus('Z a')}&goods={quote_plus('50% off ')}&txamt=100&txcurrcd=HKD{CLIENT_KEY}", "blank as +"),
        (f"{RIGHT.replace('off ', 'off')}{CLIENT_KEY}", "trimmed"),
        (f"txcurrcd=HKD&txamt=100&Mchid=Z a&goods=50% off {CLIENT_KEY}", "unsorted"),
        (f"goods=50% off &Mchid=Z a&txamt=100&txcurrcd=HKD{CLIENT_KEY}", "without regard to case"),
        (f"{RIGHT}&{CLIENT_KEY}", "a & stands before the key"),
        (f"{RIGHT}&key={CLIENT_KEY}", "&key= stands before the key"),
        (f"{CLIENT_KEY}{RIGHT}", "the key stands before the parameters"),
        (RIGHT, "the key was left out"),
        (f"{RIGHT}{CLIENT_KEY.lower()}", "lower case"),
        (f"{RIGHT}{CLIENT_KEY.upper()}", "upper case"),
        (f"{RIGHT}{CLIENT_KEY}\n", "line end"),
        (f"{RIGHT}{CLIENT_KEY} ", "a blank after"),
        (f"goods=50% off &txamt=100&txcurrcd=HKD{CLIENT_KEY}", "Mchid was left out"),
        (f"Mchid=Z a&goods=50% off &txamt=100&txcurrcd=HKD&udid={CLIENT_KEY}", "empty udid"),
        (f"txcurrcd=HKD&txamt=100&Mchid=Z+a&goods=50%25+off+{CLIENT_KEY}", "encoded form body"),
        (f"Mchid=Z+a&goods=50%25+off+&txamt=100&txcurrcd=HKD&{CLIENT_KEY}", "before signing, and a & stands"),
        (f"txcurrcd=HKD&txamt=100&Mchid=Z a&goods=50% off {CLIENT_KEY.lower()}", "unsorted, and the key was used in"),
    ],
)
def test_each_usual_mistake_is_named(text: str, named: str, sign_type: str) -> None:
    """The mistake that reproduces the signature is named with a way out, whatever the algorithm."""
    found = explain(PAIRS, CLIENT_KEY, made(text, sign_type))
    assert not found.matches
    assert named.lower() in found.summary.lower()
    assert found.fixes
    assert found.expected == made(RIGHT + CLIENT_KEY, sign_type).upper()
    assert found.expected == explain(PAIRS, CLIENT_KEY, found.expected).expected


def test_an_empty_parameter_left_out_of_the_signature_is_named() -> None:
    """What is sent empty but was not signed."""
    found = explain([*PAIRS, ("udid", "")], CLIENT_KEY, made(RIGHT + CLIENT_KEY))
    assert "without the empty parameter udid" in found.summary


def test_an_hmac_is_named() -> None:
    """A plain hash is wanted."""
    found = explain(PAIRS, CLIENT_KEY, hmac.new(CLIENT_KEY.encode(), RIGHT.encode(), "sha256").hexdigest())
    assert "HMAC" in found.summary


@pytest.mark.parametrize(("said", "other"), [("MD5", "SHA256"), ("SHA256", "MD5")])
def test_the_other_algorithm_is_named_alone_and_with_others(said: str, other: str) -> None:
    """A header that says another algorithm is found even where two more mistakes were made."""
    alone = explain(PAIRS, CLIENT_KEY, made(RIGHT + CLIENT_KEY, other), said)
    assert alone.summary == f"It is an {other} signature although X-QF-SIGNTYPE says {said}."
    unsorted = f"txcurrcd=HKD&txamt=100&Mchid=Z a&goods=50% off &key={CLIENT_KEY}"
    more = explain(PAIRS, CLIENT_KEY, made(unsorted, other), said)
    assert [word in more.summary for word in (other, "unsorted", "&key=")] == [True] * 3
    hopeless = explain(PAIRS, CLIENT_KEY, made("?", other), said)
    assert hopeless.check_next == CHECK_NEXT


def test_blanks_around_the_key_are_told_although_it_matches() -> None:
    """The key of the variable is used without them; used with them, that is the mistake."""
    padded = f" {CLIENT_KEY}\n"
    fits = explain(PAIRS, padded, made(RIGHT + CLIENT_KEY))
    assert (fits.matches, "blanks" in fits.notes[-1]) == (True, True)
    assert "blanks around it" in explain(PAIRS, padded, made(RIGHT + padded)).summary


@pytest.mark.parametrize("signature", ["", "zz", "a" * 31, "é" * 32, "\udcff", "a" * 33, "0x" + "a" * 30])
def test_what_is_no_signature_is_told_so(signature: str) -> None:
    """Wrong lengths and characters are neither a match nor an exception, for requests and bodies."""
    for found in (explain(PAIRS, CLIENT_KEY, signature), explain_body(b"{}", CLIENT_KEY, signature)):
        assert not found.matches
        assert "32" in found.summary


def test_without_a_known_mistake_it_says_what_to_check_next() -> None:
    """Environment, app code and parameters; nothing is guessed."""
    found = explain(PAIRS, CLIENT_KEY, "0" * 64)
    assert (found.fixes, found.check_next) == ((), CHECK_NEXT)


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (V2_BODY + b"\n", "line ends"),
        (V2_BODY.replace(b", ", b","), "written anew"),
        (V2_BODY.decode("unicode_escape").encode(), "written anew"),
    ],
)
def test_a_changed_body_is_named(body: bytes, named: str) -> None:
    """An editor's line end, or JSON that was parsed and written again."""
    found = explain_body(body, V2_KEY, V2_SIGNATURE)
    assert not found.matches
    assert named in found.summary


def test_other_mistakes_about_bodies() -> None:
    """The other algorithm, the key's case, and no idea at all; a body that is no JSON is no problem."""
    sha = hashlib.sha256(b"[[" + V2_KEY.encode()).hexdigest()
    assert "SHA256" in explain_body(b"[[", V2_KEY, sha).summary
    lower = hashlib.md5(b"[[" + V2_KEY.lower().encode()).hexdigest()
    assert "lower" in explain_body(b"[[", V2_KEY, lower).summary
    assert explain_body(b"[[", V2_KEY, "0" * 32).check_next


def test_the_key_is_never_in_what_is_said() -> None:
    """Not in the masked string, even when it was given as a parameter, and not in any explanation."""
    pairs = [*PAIRS, ("key", KEY)]
    shown = masked(dict(pairs), KEY)
    assert shown.endswith("<key, 32 characters>")
    assert KEY not in shown
    for text in ("", f"&key={KEY}", KEY.upper(), "&x"):
        assert KEY not in str(explain(pairs, KEY, made(RIGHT + text)))

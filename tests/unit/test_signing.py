"""Request and body signatures: QFPay's published vectors, and a key that never shows itself."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qfpay_preauth._signing import Signer, signing_string
from tests.vectors import V1_KEY, V1_PARAMS, V1_SIGNATURE, V2_BODY, V2_KEY, V2_SIGNATURE

D_PARAMS = {"mchid": "ZaMVg12345", "txamt": "100", "txcurrcd": "HKD"}
D_KEY = "abcd1234"
D_SIGNATURES = {
    "MD5": "3CB3AA9C21D818AB4CAFAA8FA3FEACF4",
    "SHA256": "99D9F7174823928B74C74B1C7A7E1538DF733774DD21C9606A202CB8BB3D74E8",
}


def test_the_published_request_vector_is_reproduced() -> None:
    """QFPay's own request signature (2016) comes out, raw spaces and the empty value included."""
    assert Signer(V1_KEY, "MD5").sign(V1_PARAMS) == V1_SIGNATURE.upper()


def test_the_published_body_vector_is_reproduced() -> None:
    """QFPay's own body signature (2018) comes out of the untouched 302 bytes."""
    assert len(V2_BODY) == 302
    assert Signer(V2_KEY).sign_body(V2_BODY) == V2_SIGNATURE


@pytest.mark.parametrize("sign_type", ["MD5", "SHA256"])
def test_computed_signatures_do_not_change(sign_type: str) -> None:
    """The inputs of QFPay's signature page keep giving what they gave (nothing is published to compare with)."""
    assert Signer(D_KEY, sign_type).sign(D_PARAMS) == D_SIGNATURES[sign_type]


def test_sha256_is_the_default() -> None:
    """A signer without a stated type signs with SHA256, and says so."""
    assert Signer(D_KEY).sign(D_PARAMS) == D_SIGNATURES["SHA256"]
    assert Signer(D_KEY).sign_type == "SHA256"


def test_the_signing_string_is_sorted_by_ascii_and_raw() -> None:
    """Names are sorted by ASCII (capitals before small letters) and values are neither quoted nor trimmed."""
    assert signing_string({"b": "1 +%20/", "a_c": "2", "Z": "交易", "ab": ""}) == "Z=交易&a_c=2&ab=&b=1 +%20/"


def test_the_order_in_which_parameters_were_given_does_not_matter() -> None:
    """The same parameters in another order have the same signature."""
    assert Signer(V1_KEY, "MD5").sign(dict(reversed(V1_PARAMS.items()))) == V1_SIGNATURE.upper()


@pytest.mark.parametrize("spell", [str.upper, str.lower, str.title, str.swapcase])
def test_a_body_signature_matches_in_any_hex_case(spell: Callable[[str], str]) -> None:
    """Hex case is ignored, as are spaces around a header value."""
    assert Signer(V2_KEY).body_matches(V2_BODY, spell(V2_SIGNATURE))
    assert Signer(V2_KEY).body_matches(V2_BODY, f" {spell(V2_SIGNATURE)} ")


@pytest.mark.parametrize(
    "signature",
    [
        "",
        " ",
        "0",
        V2_SIGNATURE[:-1],
        V2_SIGNATURE + "0",
        V2_SIGNATURE.replace("1", "2", 1),
        V2_SIGNATURE.replace("1", "\uff11"),
        "交易成功",
        "\udc80\ud800",
        V2_SIGNATURE[:-1] + "\udcff",
        "\x00" * 32,
        "\u017f" * 32,
    ],
)
def test_any_other_text_is_a_wrong_signature(signature: str) -> None:
    """Empty, short, long, altered, non-ASCII and surrogate texts are wrong, and never a crash."""
    assert not Signer(V2_KEY).body_matches(V2_BODY, signature)


@given(st.binary(max_size=200), st.text(st.characters(), max_size=80))
def test_checking_a_body_is_total(body: bytes, signature: str) -> None:
    """Any body with any text is right or wrong; its own signature is right."""
    signer = Signer(V2_KEY)
    assert signer.body_matches(body, signature) is (signature.strip().upper() == signer.sign_body(body))
    assert signer.body_matches(body, signer.sign_body(body).lower())


def test_a_body_with_one_byte_more_has_another_signature() -> None:
    """The check is on the untouched bytes: even white space counts."""
    assert not Signer(V2_KEY).body_matches(V2_BODY + b"\n", V2_SIGNATURE)
    assert not Signer(V2_KEY[:-1]).body_matches(V2_BODY, V2_SIGNATURE)


def test_a_signer_never_shows_its_key() -> None:
    """Neither repr, str nor format holds the key, and there is no __dict__ to look into."""
    signer = Signer(V1_KEY, "MD5")
    shown = f"{signer!r} {signer!s} {signer} {[signer]} {dir(signer)}"
    assert V1_KEY not in shown
    assert "MD5" in repr(signer)
    assert not hasattr(signer, "__dict__")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_signer_cannot_be_pickled(protocol: int) -> None:
    """Pickling fails in every protocol, and the error does not hold the key."""
    with pytest.raises(TypeError, match="cannot be pickled") as caught:
        pickle.dumps(Signer(V1_KEY), protocol)
    assert V1_KEY not in str(caught.value)


def test_a_signer_cannot_be_copied_into_something_picklable() -> None:
    """Copying is refused like pickling."""
    with pytest.raises(TypeError, match="cannot be pickled"):
        copy.copy(Signer(V1_KEY))

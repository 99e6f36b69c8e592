"""Why a signature does not fit: the usual mistakes, tried one after another, and two at a time. Pure.

QFPay answers a wrong signature with code 1108. It says no more than that; this module says which mistake gives exactly
the signature that was sent. Nothing here prints, and no text it returns holds the key.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from urllib.parse import quote, quote_plus

from attrs import evolve, frozen

from qfpay_preauth._signing import Signer, signing_string

Pairs = Sequence[tuple[str, str]]
SIGN_TYPE_OF_LENGTH = {32: "MD5", 64: "SHA256"}

_BLANKS = "The key as given has blanks around it; it fits without them."
CHECK_NEXT = (
    "the key: it must be the one of this environment (production, live test and sandbox have their own), and current",
    "the app code: X-QF-APPCODE must belong to the same account as the key",
    "the parameters: give exactly the names and values that are sent, decoded, and nothing else",
)

CHECK_NEXT_BODY = (
    "the key: some accounts sign notifications with a key of their own",
    "the body: verify the bytes as they came, before any parsing, decoding or re-encoding",
)


@frozen
class Finding:
    """What was found out about a signature.

    Attributes:
        matches: whether it is right as it stands.
        summary: the verdict, or the mistake that reproduces the signature, as a sentence.
        fixes: what to do about the mistakes, one sentence each.
        check_next: where to look if the fixes are not enough.
        notes: what is worth knowing although it is right.
        expected: the right signature.
    """

    matches: bool
    summary: str
    expected: str
    fixes: tuple[str, ...] = ()
    check_next: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@frozen
class _Recipe:
    """One way to make a request's signature; the defaults are QFPay's rule."""

    pairs: tuple[tuple[str, str], ...]
    key: str
    sign_type: str
    order: Callable[[Pairs], Pairs] = sorted
    encode: Callable[[str], str] = str
    join: Callable[[str, str], str] = str.__add__
    digest: Callable[[bytes, str, str], str] = lambda data, key, name: _hash(name, data)

    def signature(self) -> str:
        text = "&".join(f"{name}={self.encode(value)}" for name, value in self.order(self.pairs))
        return self.digest(self.join(text, self.key).encode(), self.key, self.sign_type)


@frozen
class _Mistake:
    what: str
    fix: str
    change: Callable[[_Recipe], _Recipe]


# ------------------------------------------------------------------------------------------------ requests


def masked(params: Mapping[str, str], key: str) -> str:
    """The signing string with the key masked: what is hashed, fit to be shown."""
    text = signing_string(params)
    if len(key) >= 8:  # a shorter one would match by chance
        text = text.replace(key, "<key>")
    return f"{text}<key, {len(key)} characters>"


def explain(pairs: Pairs, key: str, signature: str, sign_type: str | None = None) -> Finding:
    """Whether `signature` is that of the parameters, and if not, the mistake that makes it.

    Args:
        pairs: names and decoded values as they are sent, in the order given; empty values and blanks count.
        key: the client key.
        signature: hex in any case.
        sign_type: what `X-QF-SIGNTYPE` says; None: judged by the signature's length.
    """
    given, plain_key = signature.strip().upper(), key.strip()
    made_with = SIGN_TYPE_OF_LENGTH.get(len(given), "SHA256")
    right_type = sign_type or made_with
    expected = Signer(plain_key, right_type).sign(dict(pairs))
    shape = _misshapen(given)
    if shape:
        return Finding(False, shape, expected, ("Give the whole signature, as it stands in X-QF-SIGN.",))
    if given == expected:
        return Finding(True, f"It matches: {right_type}.", expected, notes=_notes(pairs, key, right_type, sign_type))
    sure = () if made_with == right_type else (_other_algorithm(made_with, right_type),)
    for found in _suspects(_mistakes(pairs, key)):
        recipe = _Recipe(tuple(pairs), plain_key, made_with)
        for mistake in found:
            recipe = mistake.change(recipe)
        if recipe.signature() == given:
            return _mistaken((*sure, *found), expected)
    if sure:
        return _mistaken(sure, expected, CHECK_NEXT)
    return Finding(False, "None of the usual mistakes gives this signature.", expected, check_next=CHECK_NEXT)


def _mistaken(mistakes: Sequence[_Mistake], expected: str, check_next: tuple[str, ...] = ()) -> Finding:
    what = ", and ".join(mistake.what for mistake in mistakes)
    fixes = tuple(mistake.fix for mistake in mistakes)
    return Finding(False, f"{what[0].upper()}{what[1:]}.", expected, fixes, check_next)


def _notes(pairs: Pairs, key: str, right_type: str, said: str | None) -> tuple[str, ...]:
    notes = []
    if said is None and right_type == "MD5":
        notes.append("MD5 is the default: send it without X-QF-SIGNTYPE, or with X-QF-SIGNTYPE: MD5.")
    elif said is None:
        notes.append("SHA256 must be announced by the header X-QF-SIGNTYPE: SHA256; without it QFPay takes MD5.")
    empty = ", ".join(name for name, value in pairs if not value)
    if empty:
        notes.append(f"Empty, and signed all the same: {empty}. Leave empty parameters out, as this library does.")
    if key != key.strip():
        notes.append(_BLANKS)
    return tuple(notes)


def _misshapen(given: str) -> str:
    if given and set(given) <= set("0123456789ABCDEF"):
        if len(given) in SIGN_TYPE_OF_LENGTH:
            return ""
        return f"The signature has {len(given)} hex digits; MD5 has 32 and SHA256 has 64."
    return "That is no signature: it must be 32 (MD5) or 64 (SHA256) hex digits."


def _suspects(groups: Sequence[Sequence[_Mistake]]) -> Iterator[tuple[_Mistake, ...]]:
    """No mistake, single ones, then two of different groups at once."""
    yield ()
    for group in groups:
        yield from ((mistake,) for mistake in group)
    for first, second in combinations(groups, 2):
        yield from ((one, other) for one in first for other in second)


def _mistakes(pairs: Pairs, key: str) -> Sequence[Sequence[_Mistake]]:
    return (
        _ENCODING,
        _ORDER,
        _JOIN,
        tuple(_key_mistakes(key)),
        tuple(_parameter_mistakes(pairs)),
        _BODY,
        _HASH,
    )


def _hash(name: str, data: bytes) -> str:
    chosen = hashlib.sha256(data) if name == "SHA256" else hashlib.md5(data, usedforsecurity=False)
    return chosen.hexdigest().upper()


def _other_algorithm(made_with: str, said: str) -> _Mistake:
    return _Mistake(
        f"it is an {made_with} signature although X-QF-SIGNTYPE says {said}",
        "Make header and hash agree: X-QF-SIGNTYPE: SHA256 for SHA256; MD5, or no such header, for MD5.",
        lambda recipe: recipe,
    )


def _hmac(data: bytes, key: str, name: str) -> str:
    return hmac.new(key.encode(), data, name.lower()).hexdigest().upper()


def _encoded_body(recipe: _Recipe) -> _Recipe:
    body = "&".join(f"{quote_plus(name)}={quote_plus(value)}" for name, value in recipe.pairs)
    return evolve(recipe, pairs=(), join=lambda _, key: body + key)


_RAW = "Sign the values as they are, and encode them only for the body."
_PLAIN_KEY = "Append the key directly after the last value, with nothing between."

_HASH = (
    _Mistake(
        "it is an HMAC with the key",
        "Append the key to the text and hash both together: a plain hash, no HMAC.",
        lambda recipe: evolve(recipe, digest=_hmac, join=lambda text, key: text),
    ),
)
_ENCODING = (
    _Mistake(
        "the values were percent-encoded before signing",
        _RAW,
        lambda recipe: evolve(recipe, encode=lambda value: quote(value, safe="")),
    ),
    _Mistake(
        "the values were form-encoded (blank as +) before signing",
        _RAW,
        lambda recipe: evolve(recipe, encode=quote_plus),
    ),
    _Mistake(
        "blanks around the values were trimmed before signing",
        "Sign exactly what is sent: trim before both, or not at all.",
        lambda recipe: evolve(recipe, encode=str.strip),
    ),
)
_ORDER = (
    _Mistake(
        "the parameters were signed in the order given, unsorted",
        "Sort them by name (ASCII order) before joining.",
        lambda recipe: evolve(recipe, order=list),
    ),
    _Mistake(
        "the parameters were sorted without regard to case",
        "Sort by ASCII order: every upper-case letter comes before the lower-case ones.",
        lambda recipe: evolve(recipe, order=lambda pairs: sorted(pairs, key=lambda pair: pair[0].lower())),
    ),
)
_JOIN = (
    _Mistake("a & stands before the key", _PLAIN_KEY, lambda recipe: evolve(recipe, join="{}&{}".format)),
    _Mistake("&key= stands before the key", _PLAIN_KEY, lambda recipe: evolve(recipe, join="{}&key={}".format)),
    _Mistake(
        "the key stands before the parameters",
        "Append the key at the end.",
        lambda recipe: evolve(recipe, join=lambda text, key: key + text),
    ),
    _Mistake(
        "the key was left out",
        "Append the key to the text before hashing.",
        lambda recipe: evolve(recipe, join=lambda text, key: text),
    ),
)
_BODY = (
    _Mistake(
        "it was made over the encoded form body, as only notifications are signed",
        "Requests are signed by their parameters: sorted by name, not encoded, joined by &, then the key.",
        _encoded_body,
    ),
)


def _key_mistakes(key: str) -> Iterator[_Mistake]:
    plain = key.strip()
    variants = [
        ("the key was used in lower case", plain.lower()),
        ("the key was used in upper case", plain.upper()),
        ("the key was used with the blanks around it", key),
        ("the key was used with a line end after it", plain + "\n"),
        ("the key was used with a Windows line end after it", plain + "\r\n"),
        ("the key was used with a blank after it", plain + " "),
        ("the key was used with a blank before it", " " + plain),
    ]
    for what, other in variants:
        if other != plain:
            yield _Mistake(what, "Use the key exactly as QFPay gave it, without blanks.", _with_key(other))


def _with_key(key: str) -> Callable[[_Recipe], _Recipe]:
    return lambda recipe: evolve(recipe, key=key)


def _parameter_mistakes(pairs: Pairs) -> Iterator[_Mistake]:
    filled = tuple((name, value) for name, value in pairs if value)
    empty = ", ".join(name for name, value in pairs if not value)
    if empty:
        what = f"it was made without the empty parameter{'s'[: empty.count(',')]} {empty}"
        yield _Mistake(what, "Sign exactly what is sent; best, send no empty parameter at all.", _with_pairs(filled))
    for name, _ in pairs:
        rest = tuple(pair for pair in pairs if pair[0] != name)
        yield _Mistake(f"{name} was left out of it", "Sign every parameter that is sent.", _with_pairs(rest))
    given = {name for name, _ in pairs}
    for name in _OPTIONAL:
        if name not in given:
            more = (*pairs, (name, ""))
            fix = f"Leave {name} out of the signature, or send it."
            yield _Mistake(f"an empty {name} was signed, but is not among the parameters", fix, _with_pairs(more))


def _with_pairs(pairs: Pairs) -> Callable[[_Recipe], _Recipe]:
    return lambda recipe: evolve(recipe, pairs=tuple(pairs))


_OPTIONAL = ("mchid", "out_trade_no", "txcurrcd", "txdtm", "udid", "return_url", "failed_url", "notify_url")


# ------------------------------------------------------------------------------------------------ bodies


def explain_body(body: bytes, key: str, signature: str) -> Finding:
    """Whether `signature` (any hex case) is that of a notification's raw body, and if not, what else it is of."""
    given, plain = signature.strip().upper(), key.strip()
    signer = Signer(plain)
    expected = signer.sign_body(body)
    shape = _misshapen(given)
    if shape:
        return Finding(False, shape, expected, ("Give the whole signature, as it stands in X-QF-SIGN.",))
    if signer.body_matches(body, given):
        notes = (_BLANKS,) if key != plain else ()
        return Finding(True, "It matches: MD5 of the raw body and the key.", expected, notes=notes)
    if _hash("SHA256", body + plain.encode()) == given:
        fix = "Notifications are always signed with MD5, whatever X-QF-SIGNTYPE the requests use."
        return Finding(False, "It is a SHA256 signature.", expected, (fix,))
    for what, fix, variants in _other_bodies(body, plain):
        if any(_hash("MD5", data) == given for data in variants):
            return Finding(False, what, expected, (fix,))
    summary = "Neither the body as it is nor its usual changes give this signature."
    return Finding(False, summary, expected, check_next=CHECK_NEXT_BODY)


def _other_bodies(body: bytes, key: str) -> Iterator[tuple[str, str, Iterable[bytes]]]:
    ends = {body.rstrip(b"\r\n"), body + b"\n", body + b"\r\n", body.replace(b"\n", b"\r\n")}
    whole = key.encode()
    yield (
        "The body's line ends were changed.",
        "Save the body byte by byte, without an editor.",
        (other + whole for other in ends),
    )
    yield (
        "It was made with the key in lower or upper case.",
        "Use the key exactly as QFPay gave it.",
        (body + other.encode() for other in (key.lower(), key.upper())),
    )
    yield (
        "The body was parsed and written anew.",
        "Verify the bytes as they came, before any parsing, decoding or re-encoding.",
        (other + whole for other in _rewritten(body)),
    )


def _rewritten(body: bytes) -> Iterator[bytes]:
    """The same JSON as other programs would write it."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return
    for separators in ((",", ":"), (", ", ": ")):
        for ascii_only in (True, False):
            for ordered in (False, True):
                text = json.dumps(value, separators=separators, ensure_ascii=ascii_only, sort_keys=ordered)
                yield text.encode("utf-8", "surrogatepass")
    if isinstance(value, dict):
        yield signing_string({name: str(each) for name, each in value.items()}).encode("utf-8", "surrogatepass")

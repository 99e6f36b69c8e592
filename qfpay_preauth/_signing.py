"""Request and body signatures. Pure; the key never leaves a Signer, and a Signer never shows it."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from functools import partial
from typing import NoReturn

SIGN_TYPES = ("SHA256", "MD5")

_md5 = partial(hashlib.md5, usedforsecurity=False)  # QFPay's rule, not our choice


def signing_string(params: Mapping[str, str]) -> str:
    """QFPay, "Signature Generation", steps 1-2: sort by name, join `name=value` with `&`, values raw."""
    return "&".join([f"{name}={params[name]}" for name in sorted(params)])


class Signer:
    """Signs and checks with one client key (QFPay, "Signature Generation").

    Args:
        key: the client key; kept out of repr, and a Signer cannot be pickled.
        sign_type: "SHA256" or "MD5"; for requests only (bodies are always MD5).
    """

    __slots__ = ("_hash", "_key", "sign_type")

    def __init__(self, key: str, sign_type: str = "SHA256") -> None:
        self._key = key.encode()
        self._hash = hashlib.sha256 if sign_type == "SHA256" else _md5
        self.sign_type = sign_type

    def sign(self, params: Mapping[str, str]) -> str:
        """All four steps."""
        return self.sign_text(signing_string(params))

    def sign_text(self, text: str) -> str:
        """Steps 3-4: append the key with no separator, hash the UTF-8 bytes, upper-case hex."""
        return self.sign_bytes(text.encode())

    def sign_bytes(self, data: bytes) -> str:
        """The same, of text that is UTF-8 already."""
        return self._hash(data + self._key).hexdigest().upper()

    def sign_body(self, body: bytes) -> str:
        """QFPay, "Asynchronous Notifications": upper-case hex MD5 of the raw body followed by the key."""
        return _md5(body + self._key).hexdigest().upper()

    def body_matches(self, body: bytes, signature: str) -> bool:
        """Whether `signature` (any hex case, any text) is that of `body`; compared in constant time."""
        return hmac.compare_digest(self.sign_body(body).encode(), _as_upper_bytes(signature))

    def __repr__(self) -> str:
        return f"Signer(***, sign_type={self.sign_type!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Signer holds a client key and cannot be pickled")


def _as_upper_bytes(signature: str) -> bytes:
    # surrogateescape and non-ASCII text may come from raw headers: they are merely wrong, never a crash
    return signature.strip().encode("utf-8", "replace").upper()

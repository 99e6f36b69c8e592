"""Response code → judgement. Only the listed codes are a sure "no"; every unlisted one leaves doubt.

Source: QFPay, "Transaction Status Codes", and traffic seen in public. The classes are our judgement on that wording:
a code is called a refusal only where its meaning cannot be that this, or an earlier, call of ours was executed.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping


class CodeClass(enum.Enum):
    """What a response code says about a write (capture, unfreeze, refund)."""

    SUCCESS = "S"
    PENDING = "P"
    REFUSED = "N"
    NOT_NOW = "R"
    AMBIGUOUS = "A"
    DENIED = "D"


SUCCESS = "0000"

_PENDING = "1143 1145 1161 1295 1296 1298 2999"
_REFUSED = (
    "1103 1104 1105 1106 1107 1108 1109 1110 1113 1114 1115 1116 1117 1118 1119 1120 1121 1122 1123 1124 1126 "
    "1129 1130 1132 1133 1134 1135 1136 1137 1138 1139 1140 1141 1150 1151 1152 1153 1180 1241 1242 1243 1261 "
    "1266 1267 1268 1270 1271 1272 2001 2002 2003 2004 2006 2008 2012"
)
_NOT_NOW = "1265 1269"
_DENIED = "1155 1181 1201 1202 1203 1212 1250 1294 2005 2007"

_CLASSES: Mapping[str, CodeClass] = {
    SUCCESS: CodeClass.SUCCESS,
    **dict.fromkeys(_PENDING.split(), CodeClass.PENDING),
    **dict.fromkeys(_REFUSED.split(), CodeClass.REFUSED),
    **dict.fromkeys(_NOT_NOW.split(), CodeClass.NOT_NOW),
    **dict.fromkeys(_DENIED.split(), CodeClass.DENIED),
}

SET_UP = frozenset(["1105", "1106", "1107", "1108", "1241", "1242", "1243"])
"""Refusals of our own set-up: credentials, signature, store. The same key may run again once it is mended."""

CONTRADICTS_BOOKS = frozenset(["1136", "1261", "1266", "1267", "1268"])
"""Refusals that our own books did not expect: somebody else may have moved money on this authorization."""

REFUND_TOO_OLD = "已經超出可退款時限"
"""1265 with this text is final: the time for refunds is over."""


def classify(code: str, text: str = "") -> CodeClass:
    """The class of a response code; `text` is the gateway's own message beside it. Total: unlisted is AMBIGUOUS."""
    if code == "1265" and REFUND_TOO_OLD in text:
        return CodeClass.DENIED
    return _CLASSES.get(code, CodeClass.AMBIGUOUS)

"""The signature vectors that QFPay published (V1: 2016, MD5; V2: 2018, the MD5 of a raw body and the key).

V1 signs an empty value and one with a trailing blank; both are part of the signed string.
"""

from __future__ import annotations

V1_KEY = "c49ce1d444994b419934286eb07b40f2"
V1_PARAMS = {
    "address": "TST",
    "bankaccount": "168477081838",
    "bankaddr": "TST",
    "bankcity": "Hong Kong",
    "bankcode": "123",
    "bankcountry": "Hong Kong",
    "bankname": "HSBC",
    "bankswiftcode": "HSBCHKHHHKH",
    "bankuser": "Peter",
    "channel_type": "",
    "city": "Hong Kong",
    "country": "Hong Kong",
    "email": "peter@test.com",
    "idnumber": "172845391795",
    "legalperson": "Peter",
    "licenseactive_date": "20160810",
    "licensenumber": "123456",
    "mcc_id": "21002",
    "mobile": "123456",
    "name": "Peter ",
    "shopname": "PeterShopR",
    "username": "peter@test.com001",
}
V1_SIGNATURE = "3a7a3bba647fb6fbc28f6687d78212e2"

V2_KEY = "615ED178BA524459976CE40FAB78000F"
V2_BODY = (
    rb'{"pay_type": "800108", "sysdtm": "2018-01-12 19:31:16", "cardcd": "2088802362210279", '
    rb'"txdtm": "2018-01-12 19:31:22", "resperr": "\u4ea4\u6613\u6210\u529f", "txcurrcd": "CNY", "txamt": "1", '
    rb'"respmsg": "", "out_trade_no": "130145934788787530052", "syssn": "20180112000100020001662134", '
    rb'"respcd": "0000"}'
)
V2_SIGNATURE = "1E2CE7C2A7F8F581C354A857182B7A31"

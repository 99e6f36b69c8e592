"""Profiles: what the variables and the TOML file may say, where the file is, and that no error holds a secret."""

from __future__ import annotations

import os
import traceback
from datetime import timedelta
from pathlib import Path

import pytest

from qfpay_preauth import ConfigurationError, Credentials, LedgerUnavailableError, PreauthClient, Settings
from qfpay_preauth._profile import Profile, load_profile, open_clients
from qfpay_preauth._profile_file import existing, has_password, without_password

SECRET = "TOPSECRETKEY0123456789"
VARIABLES = {"QFPAY_APP_CODE": "APP", "QFPAY_CLIENT_KEY": SECRET, "QFPAY_LEDGER": "sqlite:///ledger.db"}
PLAIN = f'app_code = "APP"\nclient_key = "{SECRET}"\nledger = "sqlite:///ledger.db"\n'
BY_NAME = 'app_code = "APP"\nclient_key_env = "SHOP_KEY"\nledger = "sqlite:///ledger.db"\n'
ENVIRON = {"SHOP_KEY": SECRET, "OTHER_KEY": "ANOTHERSECRET"}


def written(folder: Path, text: str | bytes, name: str = "shop.toml", mode: int = 0o600) -> str:
    """A profile file; its path as `--profile` takes it."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    path.chmod(mode)
    return str(path)


def load(folder: Path, text: str | bytes, name: str | None = None, mode: int = 0o600) -> Profile:
    """The profile of a file with this text."""
    path = written(folder, text, mode=mode)
    return load_profile(f"{path}:{name}" if name else path, ENVIRON)


# ------------------------------------------------------------------------------------------------ the variables


def test_the_variables_mean_what_they_mean_to_the_client() -> None:
    """The same account, url, settings and credentials as `PreauthClient.from_env`."""
    environ = {
        **VARIABLES,
        "QFPAY_MCHID": "M1",
        "QFPAY_ENVIRONMENT": "live_test",
        "QFPAY_BASE_URL": "http://127.0.0.1:1/x",
        "QFPAY_SIGN_TYPE": "MD5",
        "QFPAY_NOTIFICATION_KEY": "N1",
        "QFPAY_PREVIOUS_CLIENT_KEY": "P1",
        "QFPAY_PREVIOUS_NOTIFICATION_KEY": "P2",
        "QFPAY_ACCOUNT": "hk",
        "QFPAY_TIMEOUT_TOTAL_S": "20",
        "QFPAY_DEFAULT_CAPTURE_WINDOW": "7",
    }
    for given in (environ, VARIABLES, {**VARIABLES, "QFPAY_MCHID": "", "QFPAY_SIGN_TYPE": ""}):
        profile = load_profile(None, given)
        (ours,) = profile.clients().values()
        theirs = PreauthClient.from_env(given)
        assert repr(ours) == repr(theirs)
        assert ours.settings == theirs.settings
        assert ours._credentials == theirs._credentials
        assert profile.accounts == {theirs.account: theirs._credentials}
        assert profile.default_account == theirs.account


@pytest.mark.parametrize("name", VARIABLES)
def test_a_missing_variable_is_named_with_the_way_out(name: str) -> None:
    """The variables, or a profile."""
    with pytest.raises(ConfigurationError, match=name) as caught:
        load_profile(None, {key: value for key, value in VARIABLES.items() if key != name})
    assert "--profile NAME" in caught.value.advice


# ------------------------------------------------------------------------------------------------ the file


def test_one_profile_at_the_top(tmp_path: Path) -> None:
    """Its defaults, and its ledger beside the file, wherever the command is run."""
    profile = load(tmp_path, PLAIN)
    assert (profile.name, profile.environment, profile.base_url) == ("shop.toml", "sandbox", None)
    assert profile.ledger == f"sqlite:///{tmp_path}/ledger.db"
    assert profile.accounts == {"APP": Credentials("APP", SECRET)}
    assert (profile.default_account, profile.settings) == ("APP", Settings())


@pytest.mark.parametrize(
    ("given", "becomes"),
    [
        ("sqlite:///data/l.db?mode=rwc", "sqlite:///{folder}/data/l.db?mode=rwc"),
        ("sqlite:////var/l.db", "sqlite:////var/l.db"),
        ("memory://", "memory://"),
    ],
)
def test_where_the_ledger_is(tmp_path: Path, given: str, becomes: str) -> None:
    """Only a relative path is relative to the file; the folder's odd characters survive."""
    folder = tmp_path / "my shop?100%"
    folder.mkdir()
    profile = load(folder, PLAIN.replace("sqlite:///ledger.db", given))
    assert profile.ledger == becomes.format(
        folder=str(folder).replace("%", "%25").replace(" ", "%20").replace("?", "%3F")
    )
    if given.startswith("sqlite:///data"):
        (client,) = profile.clients().values()
        assert client._ledger.path == folder / "data" / "l.db"  # type: ignore[attr-defined]


def test_several_profiles(tmp_path: Path) -> None:
    """By name; a single one needs none; with several the names are listed."""
    text = f"[profiles.shop]\n{BY_NAME}\n[profiles.hotel]\n{BY_NAME.replace('APP', 'HOTEL')}"
    assert load(tmp_path, text, "hotel").accounts["HOTEL"].app_code == "HOTEL"
    assert load(tmp_path, text, "hotel").name == "hotel"
    assert load(tmp_path, f"[profiles.only]\n{BY_NAME}").name == "only"
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path, text)
    assert "hotel" in caught.value.advice
    assert ":NAME" in caught.value.advice
    with pytest.raises(ConfigurationError, match="Did you mean hotel"):
        load(tmp_path, text, "hotl")
    with pytest.raises(ConfigurationError, match="it is one profile itself"):
        load(tmp_path, BY_NAME, "shop")


def test_where_a_name_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """QFPAY_CONFIG before the current folder before the user's folder; none of them: both places are named."""
    home, here, named = tmp_path / "home", tmp_path / "here", tmp_path / "named.toml"
    here.mkdir()
    monkeypatch.chdir(here)
    environ = {**ENVIRON, "HOME": str(home)}
    with pytest.raises(ConfigurationError, match=r"qfpay-preauth\.toml and .*\.config/qfpay-preauth\.toml"):
        load_profile("shop", environ)
    for path, app_code in (
        (home / ".config/qfpay-preauth.toml", "HOME"),
        (here / "qfpay-preauth.toml", "HERE"),
        (named, "NAMED"),
    ):
        written(path.parent, f"[profiles.shop]\n{BY_NAME.replace('APP', app_code)}", path.name)
        if path == named:
            environ["QFPAY_CONFIG"] = str(named)
        assert load_profile("shop", environ).accounts[app_code].app_code == app_code
    elsewhere = tmp_path / "xdg"
    written(elsewhere, f"[profiles.shop]\n{BY_NAME.replace('APP', 'XDG')}", "qfpay-preauth.toml")
    (here / "qfpay-preauth.toml").unlink()
    found = load_profile("shop", {**ENVIRON, "HOME": str(home), "XDG_CONFIG_HOME": str(elsewhere)})
    assert list(found.accounts) == ["XDG"]


def test_settings(tmp_path: Path) -> None:
    """By their names; the capture window in days, as the variable has it."""
    text = f"""{PLAIN}
    [settings]
    timeout_total_s = 20
    capture_reference = true
    default_capture_window = 7.5
    currency_exponents = {{ JPY = 0 }}
    """
    expected = Settings(
        timeout_total_s=20,
        capture_reference=True,
        default_capture_window=timedelta(days=7.5),
        currency_exponents={"JPY": 0},
    )
    assert load(tmp_path, text).settings == expected


ACCOUNTS = """
ledger = "sqlite:///ledger.db"
app_code = "AGENT"
client_key_env = "SHOP_KEY"
{more}
[accounts.hk]
mchid = "M1"
[accounts.sg]
mchid = "M2"
client_key_env = "OTHER_KEY"
sign_type = "MD5"
"""


def test_several_accounts(tmp_path: Path) -> None:
    """What they share stands above them; each has what is its own; none is the default unless one is made so."""
    profile = load(tmp_path, ACCOUNTS.format(more=""))
    assert profile.accounts == {
        "hk": Credentials("AGENT", SECRET, mchid="M1"),
        "sg": Credentials("AGENT", "ANOTHERSECRET", mchid="M2", sign_type="MD5"),
    }
    assert profile.default_account == ""
    assert load(tmp_path, ACCOUNTS.format(more='default_account = "sg"')).default_account == "sg"
    clients = profile.clients()
    assert clients["hk"]._ledger is clients["sg"]._ledger
    assert [client.account for client in clients.values()] == ["M1", "M2"]


# ------------------------------------------------------------------------------------------------ what is refused

WRONG = [
    # text, what the message must name
    (f"{PLAIN}ledgr = 1", "ledgr: unknown name. Did you mean ledger?"),
    (f'{PLAIN}[settings]\ntimeout_s = 1', "[settings] timeout_s: unknown name. Did you mean timeout"),
    (f'{PLAIN}[settings]\ntimeout_total_s = "{SECRET}x"', "[settings]: timeout_total_s must be a number"),
    (f"{PLAIN}[settings]\ndefault_capture_window = true", "default_capture_window: must be a number of days"),
    (f"{PLAIN}[settings]\ndefault_capture_window = nan", "default_capture_window: must be a number of days"),
    (f"{PLAIN}[settings]\ncurrency_exponents = 2", "[settings]: currency_exponents"),
    (f"{PLAIN}settings = 3", "settings: must be a table"),
    (PLAIN.replace("app_code", "#"), "app_code: is missing"),
    (PLAIN.replace("client_key", "#"), "client_key (or client_key_env, the NAME of a variable): is missing"),
    (PLAIN.replace("ledger", "#"), "ledger: is missing"),
    (f"{PLAIN}mchid = 5", "mchid: must be text in quotes"),
    (f'{PLAIN}mchid = "with blank"', "mchid must be"),
    (f'{PLAIN}sign_type = "SHA1"', "sign_type must be one of"),
    (f'{PLAIN}environment = "prod"', "environment must be one of production, live_test, sandbox"),
    (f'{PLAIN}base_url = "http://shop.example"', "base_url must be https"),
    (PLAIN.replace("sqlite:///", "mysql://"), "ledger must be"),
    (PLAIN.replace(SECRET, f"{SECRET} with blanks"), "client_key must be printable ASCII"),
    (f'{PLAIN}client_key_env = "SHOP_KEY"', "client_key_env: client_key is given too"),
    (BY_NAME.replace("SHOP_KEY", SECRET), "client_key_env: the environment variable that it names is not set"),
    (f'{PLAIN}notification_key = ["{SECRET}"]', "notification_key: must be text in quotes"),
    (f'{PLAIN}"{"x" * 300}" = 1', "unknown name"),
    (f"[profiles.shop]\n{PLAIN}client_kee = '{SECRET}'", "[profiles.shop] client_kee: unknown name. Did you mean"),
    (f"{PLAIN}[profiles.shop]\n", "app_code: unknown name"),
    ("[profiles]\n", "profiles: holds 0 profiles"),
    ("profiles = 1\n", "profiles: must be a table"),
    (f"{PLAIN}[accounts]\n", "accounts: is empty"),
    (ACCOUNTS.format(more='mchid = "M3"'), "mchid: belongs to one account"),
    (ACCOUNTS.format(more='default_account = "hkk"'), "default_account: there is no such account. Did you mean hk?"),
    (ACCOUNTS.format(more="").replace("M2", "M1"), "[accounts] sg: is the same account (M1) in the ledger as hk"),
    (ACCOUNTS.format(more="").replace("[accounts.sg]", "[accounts.sg]\nledger = 'x'"), "[accounts.sg] ledger: unknown"),
    (f'app_code = "{SECRET}', "not TOML"),
    (f"{PLAIN}app_code = 'TWICE'", "not TOML"),
    (f"x = {'[' * 5000}{']' * 5000}", "not TOML"),
    (f"x = {'9' * 5000}", "not TOML"),
    (f"# {SECRET}\n".encode() + b"app_code = \"\xff\xfe\"", "line 2 is not UTF-8"),
    (PLAIN.encode("utf-16"), "is not UTF-8"),
    ("#" * 1_100_000, "longer than"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "says"), WRONG, ids=[says[:40] for _, says in WRONG])
def test_every_error_names_file_and_key_and_no_secret(tmp_path: Path, text: str | bytes, says: str) -> None:
    """The file, the key, the nearest known name; never a secret's value, not even in the error's traceback."""
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path, text)
    message = str(caught.value)
    assert says in message
    assert "shop.toml" in message
    assert len(message) < 900
    shown = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=False).format())
    assert SECRET not in shown.replace(f"{SECRET}x", "")
    assert caught.value.__context__ is None


def test_the_advice_of_the_library_stays(tmp_path: Path) -> None:
    """An error about the whole profile names the file, and nothing that is empty."""
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path, f'{PLAIN}environment = "prod"')
    assert str(caught.value).startswith(f"{tmp_path}/shop.toml: environment must be one of ")


def test_a_value_of_the_wrong_kind_in_a_setting_is_shown_only_there(tmp_path: Path) -> None:
    """Settings are no secrets, and their values are shown; credentials never are."""
    with pytest.raises(ConfigurationError, match="not 0"):
        load(tmp_path, f"{PLAIN}[settings]\nattempts_max = 0")


@pytest.mark.parametrize("path", ["missing.toml", "folder.toml", "\0.toml", "no/such/folder.toml:shop"])
def test_a_file_that_cannot_be_read(tmp_path: Path, path: str) -> None:
    """The file and why."""
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load_profile(f"{tmp_path}/{path}", ENVIRON)


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX")
@pytest.mark.parametrize(
    ("mode", "fine"), [(0o600, True), (0o640, True), (0o644, False), (0o660, False), (0o601, False)]
)
def test_a_file_with_a_secret_is_private(tmp_path: Path, mode: int, fine: bool) -> None:
    """Others may not read it, nobody else may change it; without a secret in it any mode will do."""
    assert load(tmp_path, BY_NAME, mode=mode).accounts
    if fine:
        assert load(tmp_path, PLAIN, mode=mode).accounts
        return
    with pytest.raises(ConfigurationError, match=f"client_key, and its mode is {mode:04o}") as caught:
        load(tmp_path, PLAIN, mode=mode)
    assert "chmod 600" in caught.value.advice
    assert "client_key_env" in caught.value.advice


def test_a_byte_order_mark_is_fine(tmp_path: Path) -> None:
    """Some editors write one."""
    assert load(tmp_path, b"\xef\xbb\xbf" + PLAIN.encode()).accounts


# ------------------------------------------------------------------------------------------------ the value


def test_no_repr_holds_a_secret(tmp_path: Path) -> None:
    """Neither the keys nor the ledger's password."""
    profile = load(tmp_path, PLAIN.replace("sqlite:///ledger.db", "memory://"))
    assert SECRET not in repr(profile)
    other = Profile("x", "sandbox", "postgresql://u:PASSWORD@h/db?x=1", None, Settings(), profile.accounts, "APP")
    assert "PASSWORD" not in repr(other)
    assert other.ledger_shown == "postgresql://***@h/db"
    assert (profile.forgets, other.forgets) == (True, False)


@pytest.mark.parametrize(
    ("ledger", "shown"),
    [
        ("sqlite:////var/l.db?mode=rwc", "sqlite:////var/l.db"),
        ("postgresql://u:PASSWORD@h:5432/db?x=1", "postgresql://***@h/db"),
        ("postgresql://h/db?user=u&password=PASSWORD", "postgresql://h/db"),
        ("postgresql://u:PASSWORD@[h/db", "postgresql://***"),
    ],
)
def test_a_ledger_is_shown_without_its_password(ledger: str, shown: str) -> None:
    """Wherever in the URL it stands; a URL with one is a secret of the file."""
    assert without_password(ledger) == shown
    assert has_password(ledger) is ("PASSWORD" in ledger)


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX")
def test_a_ledgers_password_makes_the_file_private(tmp_path: Path) -> None:
    """It is one of the file's secrets; `ledger_env` keeps it out of the file."""
    pytest.importorskip("asyncpg")
    text = BY_NAME.replace("sqlite:///ledger.db", "postgresql://u:PASSWORD@h/db")
    with pytest.raises(ConfigurationError, match="ledger, and its mode is 0644") as caught:
        load(tmp_path, text, mode=0o644)
    assert "PASSWORD" not in str(caught.value)
    by_name = load_profile(
        written(
            tmp_path, BY_NAME.replace("ledger =", "ledger_env =").replace("sqlite:///ledger.db", "LEDGER"), mode=0o644
        ),
        {**ENVIRON, "LEDGER": "postgresql://u:PASSWORD@h/db"},
    )
    assert by_name.ledger_shown == "postgresql://***@h/db"


def test_a_missing_ledger_is_made_only_where_it_may_be(tmp_path: Path) -> None:
    """`with_existing_ledger` takes back even ?mode=rwc; `for_enquiries` does without a missing file."""
    profile = load(tmp_path, PLAIN)
    assert profile.with_existing_ledger().ledger.endswith("ledger.db?mode=rw")
    asked = load(tmp_path, PLAIN.replace("ledger.db", "ledger.db?mode=rwc"))
    assert asked.ledger.endswith("?mode=rwc")
    assert asked.with_existing_ledger().ledger.endswith("?mode=rw")
    other = Profile("x", "sandbox", "postgresql://h/db?migrate=true&a=1", None, Settings(), profile.accounts, "APP")
    assert other.with_existing_ledger().ledger == other.for_enquiries().ledger == "postgresql://h/db?a=1"
    assert existing("postgresql://h/db?migrate=true") == "postgresql://h/db"
    assert profile.for_enquiries().forgets
    (tmp_path / "ledger.db").write_bytes(b"")
    assert not profile.for_enquiries().forgets


async def test_open_clients_closes_everything(tmp_path: Path) -> None:
    """All clients on one ledger, which is closed after them, also after an error."""
    profile = load(tmp_path, ACCOUNTS.format(more=""))
    opened: list[PreauthClient] = []

    async def work() -> None:
        async with open_clients(profile) as clients:
            opened.extend(clients.values())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await work()
    assert [client._closed for client in opened] == [True, True]
    ledger = opened[0]._ledger
    with pytest.raises(LedgerUnavailableError, match="not open"):
        await ledger.span("M1")


async def test_open_clients_of_a_broken_ledger(tmp_path: Path) -> None:
    """The ledger's own error, and nothing stays open (a leak would be a warning, and so a failure)."""
    (tmp_path / "ledger.db").write_bytes(b"no ledger at all")
    with pytest.raises(LedgerUnavailableError):
        async with open_clients(load(tmp_path, PLAIN)):
            raise AssertionError("it opened")

"""A profile's TOML file: where it is, and what is in it. No message holds a value that could be a secret."""

from __future__ import annotations

import os
import stat
import tomllib
from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from attrs import frozen

from qfpay_preauth.errors import ConfigurationError, shown

FILE_NAME = "qfpay-preauth.toml"
BYTES_MAX = 1_048_576
_OPEN_TO_OTHERS = 0o027  # others: nothing at all; the group may read, as services do


class HiddenTable(dict[str, Any]):
    """A table of the file, of which no repr shows any value."""

    def __repr__(self) -> str:
        return f"<{len(self)} names>"


@frozen(repr=False)
class Table:
    """One table and where it stands, for messages that name file and key."""

    path: Path
    name: str
    values: HiddenTable

    def error(self, key: str, problem: str, advice: str | None = None) -> ConfigurationError:
        """The error of one key."""
        where = " ".join(filter(None, (self.name and f"[{self.name}]", key)))
        return ConfigurationError(f"{self.path}: {where}{': ' if where else ''}{problem}", advice=advice)

    def of(self, error: ConfigurationError) -> ConfigurationError:
        """The same error, saying where."""
        return self.error("", str(error.args[0]), error.advice)

    def check_names(self, known: Collection[str]) -> None:
        """Refuse every name that is not known."""
        for name in self.values:
            if name not in known:
                raise self.error(shown(name)[1:-1], f"unknown name.{nearest(name, known)}")

    def text(self, key: str) -> str | None:
        """The text of a key, or None."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, str):
            raise self.error(key, "must be text in quotes.")
        return value

    def table(self, key: str) -> Table | None:
        """The table of a key, or None."""
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.error(key, f"must be a table: [{_joined(self.name, key)}].")
        return Table(self.path, _joined(self.name, key), HiddenTable(value))

    def secret(self, key: str, environ: Mapping[str, str]) -> str | None:
        """The text of a key, or of the variable that `key_env` names, or None."""
        inline, variable = self.text(key), self.text(f"{key}_env")
        if variable is None:
            return inline
        if inline is not None:
            raise self.error(f"{key}_env", f"{key} is given too: keep one of them.")
        value = environ.get(variable)
        if not value:
            # its name is not repeated: somebody may have typed the secret itself
            raise self.error(f"{key}_env", "the environment variable that it names is not set.")
        return value


def _joined(*names: str) -> str:
    return ".".join(name for name in names if name)


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint at the nearest of the known names."""
    names = {each.lower(): each for each in sorted(known)}
    close = get_close_matches(name.lower(), names, n=1, cutoff=0.5)
    if close:
        return f" Did you mean {names[close[0]]}?"
    return f" Known: {', '.join(names.values())}." if names else ""


# ------------------------------------------------------------------------------------------------ finding it


def place_of(profile: str, environ: Mapping[str, str]) -> tuple[Path, str | None]:
    """The file, and the profile's name in it, that `--profile` means.

    `path/file.toml` is that file, `path/file.toml:NAME` a profile in it; `NAME` is looked for in the file that
    QFPAY_CONFIG names, else in `./qfpay-preauth.toml`, else in the user's folder for configuration.

    Raises:
        ConfigurationError: there is no such file.
    """
    if profile.endswith(".toml"):
        return Path(profile), None
    path, separator, name = profile.rpartition(".toml:")
    if separator:
        return Path(f"{path}.toml"), name
    if environ.get("QFPAY_CONFIG"):
        return Path(environ["QFPAY_CONFIG"]), profile
    places = [Path(FILE_NAME), _user_folder(environ) / FILE_NAME]
    for place in places:
        if place.is_file():
            return place, profile
    raise ConfigurationError(
        f"There is no file with profile {shown(profile)}: looked for {places[0]} and {places[1]}.",
        advice="Make one of them, or name the file: --profile path/to/file.toml, or QFPAY_CONFIG.",
    )


def _user_folder(environ: Mapping[str, str]) -> Path:
    if os.name == "nt":
        return Path(environ.get("APPDATA") or os.path.expanduser("~"))
    home = environ.get("HOME") or os.path.expanduser("~")
    return Path(environ.get("XDG_CONFIG_HOME") or Path(home) / ".config")


# ------------------------------------------------------------------------------------------------ reading it


def read_table(path: Path, name: str | None) -> tuple[Table, int]:
    """The profile's table, and the file's mode.

    Raises:
        ConfigurationError: the file, or the profile in it, cannot be read.
    """
    text, mode = _read(path)
    top = Table(path, "", _parsed(path, text))
    if "profiles" not in top.values:
        if name is not None:
            raise top.error(
                "", f"has no [profiles.{shown(name)[1:-1]}]: it is one profile itself.", f"--profile {path}"
            )
        return top, mode
    top.check_names(["profiles"])  # a name beside [profiles] would belong to none of them
    profiles = top.table("profiles")
    names = [] if profiles is None else list(profiles.values)
    if name is None and len(names) != 1:
        raise top.error(
            "profiles", f"holds {len(names)} profiles.", f"Name one: --profile {path}:NAME ({_list(names)})."
        )
    name = names[0] if name is None else name
    table = None if profiles is None else profiles.table(name)
    if table is None:
        raise top.error("profiles", f"there is no profile {shown(name)}.{nearest(name, names)}")
    return table, mode


def _list(names: Iterable[str]) -> str:
    return ", ".join(shown(name)[1:-1] for name in names)


def _read(path: Path) -> tuple[str, int]:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(BYTES_MAX + 1)
    except (OSError, ValueError) as error:
        problem = getattr(error, "strerror", None) or "not a path"
        raise ConfigurationError(f"The profile file {shown(str(path), 200)} cannot be read: {problem}.") from error
    if len(content) > BYTES_MAX:
        raise ConfigurationError(f"{path}: longer than {BYTES_MAX} bytes: that is no profile file.")
    try:
        return content.decode("utf-8-sig"), mode
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
    raise ConfigurationError(f"{path}: line {line} is not UTF-8.")  # outside: the error holds the file's content


def _parsed(path: Path, text: str) -> HiddenTable:
    try:
        return HiddenTable(tomllib.loads(text))
    except RecursionError:
        problem = "nested too deeply"
    except ValueError as error:
        problem = str(error)
    raise ConfigurationError(f"{path}: not TOML: {problem}.")  # outside: the frames above hold the file's content


def check_private(path: Path, mode: int, key: str) -> None:
    """Refuse a file with a secret in it that others may read, or may change.

    Raises:
        ConfigurationError: its mode allows more than 0640.
    """
    if os.name == "posix" and mode & _OPEN_TO_OTHERS:
        raise ConfigurationError(
            f"{path}: it holds {key}, and its mode is {stat.S_IMODE(mode):04o}: others could read or change it.",
            advice=f'Run chmod 600 {path}, or keep the secret in a variable: {key}_env = "VARIABLE".',
        )


# ------------------------------------------------------------------------------------------------ the ledger's URL


def anchored(ledger: str, folder: Path) -> str:
    """A relative SQLite path is relative to the file's folder: a profile means one ledger, wherever it is used."""
    rest = ledger.removeprefix("sqlite:///")
    path, mark, query = rest.partition("?")
    if rest == ledger or not path or PurePath(unquote(path)).is_absolute():
        return ledger
    return f"sqlite:///{quote(str(folder.absolute()))}/{path}{mark}{query}"


def existing(ledger: str) -> str:
    """The same ledger, but never made (or migrated): a wrong path is an error, not an empty ledger."""
    path, mark, query = ledger.partition("?")
    if ledger.startswith("sqlite:///"):
        return ledger if query not in ("", "mode=rwc") else f"{path}?mode=rw"
    kept = "&".join(part for part in query.split("&") if not part.startswith("migrate="))
    return f"{path}{mark if kept else ''}{kept}"


def is_missing(ledger: str) -> bool:
    """Whether it is a SQLite file that is not there (yet)."""
    path = ledger.removeprefix("sqlite:///").partition("?")[0]
    return ledger.startswith("sqlite:///") and not Path(unquote(path)).exists()


def without_password(ledger: str) -> str:
    """The URL as it may be shown."""
    try:
        parts = urlsplit(ledger)
    except ValueError:
        return f"{ledger.partition('://')[0]}://***"
    if parts.password is None and parts.username is None:
        return ledger.partition("?")[0]
    return f"{parts.scheme}://***@{parts.hostname or ''}{parts.path}"


def has_password(ledger: str) -> bool:
    """Whether the URL may hold a secret."""
    try:
        return bool(urlsplit(ledger).password) or "password=" in ledger
    except ValueError:
        return True

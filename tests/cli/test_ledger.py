"""`ledger migrate`, `ledger copy`, `ledger recover`: where the books are kept, through the real command."""

from __future__ import annotations

import shutil
from pathlib import Path

from .kit import Shop


def test_a_ledger_is_moved(shop: Shop, tmp_path: Path) -> None:
    """All books arrive and go on being used; the old place refuses from then on and says where they went."""
    syssn = shop.hold()
    assert shop("capture", syssn, "5000", "-k", "one", "--json").code == 0
    old, new = shop.env["QFPAY_LEDGER"], f"sqlite:///{tmp_path / 'moved.db'}"
    moved = shop("ledger", "copy", old, new, "--yes", "--json")
    assert moved.code == 0
    rows = moved.objects[0]["rows"]
    assert (rows["authorizations"], rows["entries"], rows["movements"]) == (1, 1, 2)
    refused = shop("capture", syssn, "6000", "-k", "two")
    assert refused.code != 0
    assert "moved.db" in refused.err
    shop.env["QFPAY_LEDGER"] = new
    replayed = shop("capture", syssn, "5000", "-k", "one", "--json")
    assert (replayed.code, replayed.objects[0]["replayed"]) == (0, True)
    assert shop("capture", syssn, "6000", "-k", "two", "--json").code == 0
    assert shop.do(lambda gateway: gateway.books.totals(syssn).captured) == 11_000


def test_a_move_asks_first(shop: Shop, tmp_path: Path) -> None:
    """Without a terminal and without --yes nothing is moved."""
    shop.hold()
    done = shop("ledger", "copy", shop.env["QFPAY_LEDGER"], f"sqlite:///{tmp_path / 'moved.db'}")
    assert done.code == 2
    assert "--yes" in done.err
    assert not (tmp_path / "moved.db").exists()
    assert shop("doubts").code == 0


def test_a_wrong_move_changes_nothing(shop: Shop, tmp_path: Path) -> None:
    """To itself, from nowhere, into something that is not empty, in a wrong environment: refused, one line each."""
    shop.hold()
    target = f"sqlite:///{tmp_path / 'moved.db'}"
    for source, to, more in (
        (shop.env["QFPAY_LEDGER"], shop.env["QFPAY_LEDGER"], []),
        (f"sqlite:///{tmp_path / 'nowhere.db'}", target, []),
        ("nonsense", target, []),
        (shop.env["QFPAY_LEDGER"], target, ["--environment", "mars"]),
        (shop.env["QFPAY_LEDGER"], target, ["--environment", "production"]),
    ):
        done = shop("ledger", "copy", source, to, "--yes", *more)
        assert done.code in (1, 2), (source, to)
        assert done.err.count("\n") == 1, done.err
    assert shop("doubts").code == 0


def test_a_sqlite_ledger_needs_no_migration(shop: Shop) -> None:
    """It is made, and brought up to date, when it is opened: the command says so."""
    done = shop("ledger", "migrate")
    assert done.code == 2
    assert "when it is opened" in done.err
    assert shop("ledger", "migrate", "--ledger", "memory://").code == 2


def test_a_server_that_is_not_there(shop: Shop) -> None:
    """One line, without the password."""
    done = shop("ledger", "migrate", "--ledger", "postgresql://shop:s3cret@127.0.0.1:1/shop")
    assert done.code != 0
    assert "cannot be reached" in done.err
    assert "s3cret" not in done.err + done.out


def test_a_restored_ledger_learns_what_happened_since(shop: Shop, tmp_path: Path) -> None:
    """A backup is put back: a hold made since is imported with its captures, and nothing can be taken twice."""
    first = shop.hold()
    assert shop("capture", first, "5000", "-k", "one").code == 0
    path = shop.folder / "ledger.db"
    backup = tmp_path / "backup.db"
    shutil.copy(path, backup)
    second = shop.hold()
    assert shop("capture", second, "7000", "-k", "two").code == 0
    assert shop("unfreeze", first, "-k", "close", "--yes").code == 0
    for each in tmp_path.glob(f"{path.name}*"):
        each.unlink()
    shutil.copy(backup, path)
    done = shop("ledger", "recover", "--json")
    assert done.code == 3, done.err  # the books differ: what was done meanwhile has lost its keys
    (report,) = done.objects
    assert [each["kind"] for each in report["report"]["foreign"]] == ["unknown"]
    assert [each["syssn"] for each in report["imported"]] == [second]
    balance = shop("balance", second, "--json").objects[0]["balance"]
    assert (balance["captured"] + balance["foreign"], balance["capturable"]) == (7_000, balance["authorized"] - 7_000)
    late = shop("capture", first, "1000", "-k", "late")
    assert late.code == 3
    assert shop.do(lambda gateway: gateway.books.audit()) == []

-- The ledger, version 1. Times are integer microseconds since 1970 UTC; amounts are integer minor units.
-- Nothing is ever deleted, and events are never changed: the triggers at the end hold that.

CREATE TABLE meta (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE authorizations (
    account           TEXT NOT NULL,
    syssn             TEXT NOT NULL,
    amount            INTEGER NOT NULL CHECK (amount BETWEEN 1 AND 99999999999),
    currency          TEXT NOT NULL,
    out_trade_no      TEXT NOT NULL,
    registered_at     INTEGER NOT NULL,
    authorized_at     INTEGER,
    capture_window    INTEGER,
    captured          INTEGER NOT NULL CHECK (captured >= 0),
    claimed           INTEGER NOT NULL CHECK (claimed >= 0),
    unfrozen          INTEGER NOT NULL CHECK (unfrozen >= 0),
    refunded          INTEGER NOT NULL CHECK (refunded >= 0),
    foreign_captured  INTEGER NOT NULL CHECK (foreign_captured >= 0),
    foreign_unfrozen  INTEGER NOT NULL CHECK (foreign_unfrozen >= 0),
    foreign_refunded  INTEGER NOT NULL CHECK (foreign_refunded >= 0),
    flagged           INTEGER NOT NULL CHECK (flagged IN (0, 1)),
    PRIMARY KEY (account, syssn),
    -- our own captures, claims and unfreeze together never exceed the hold
    CHECK (captured + claimed + unfrozen <= amount),
    CHECK (refunded <= captured + foreign_captured)
) STRICT, WITHOUT ROWID;

CREATE TABLE movements (
    account          TEXT NOT NULL,
    syssn            TEXT NOT NULL,
    kind             TEXT NOT NULL CHECK (kind IN ('authorization', 'capture', 'unfreeze', 'refund')),
    authorization    TEXT NOT NULL,
    amount           INTEGER NOT NULL CHECK (amount >= 1),
    idempotency_key  TEXT,
    executed         INTEGER NOT NULL CHECK (executed IN (0, 1)),
    refunded         INTEGER NOT NULL CHECK (refunded >= 0),
    refund_claimed   INTEGER NOT NULL CHECK (refund_claimed >= 0),
    PRIMARY KEY (account, syssn),
    FOREIGN KEY (account, authorization) REFERENCES authorizations (account, syssn),
    CHECK (refunded + refund_claimed <= amount)
) STRICT, WITHOUT ROWID;

CREATE TABLE entries (
    account          TEXT NOT NULL,
    idempotency_key  TEXT NOT NULL,
    operation        TEXT NOT NULL CHECK (operation IN ('capture', 'unfreeze', 'refund')),
    authorization    TEXT NOT NULL,
    syssn            TEXT NOT NULL,
    amount           INTEGER NOT NULL CHECK (amount BETWEEN 1 AND 99999999999),
    currency         TEXT NOT NULL,
    out_trade_no     TEXT,
    state            TEXT NOT NULL CHECK (state IN ('held', 'in_doubt', 'executed', 'not_executed')),
    attempt          INTEGER NOT NULL CHECK (attempt >= 1),
    reserved_at      INTEGER NOT NULL,
    send_by          INTEGER NOT NULL,
    doubt_at         INTEGER NOT NULL,
    why              TEXT,
    rerunnable       INTEGER NOT NULL CHECK (rerunnable IN (0, 1)),
    result_syssn     TEXT,
    code             TEXT,
    message          TEXT,
    detail           TEXT,
    system_time      INTEGER,
    confirmed_by     TEXT,
    concluded_at     INTEGER,
    reason           TEXT,
    raw              TEXT,
    PRIMARY KEY (account, idempotency_key),
    FOREIGN KEY (account, authorization) REFERENCES authorizations (account, syssn),
    CHECK ((state IN ('held', 'in_doubt')) = (concluded_at IS NULL))
) STRICT, WITHOUT ROWID;

-- only unresolved entries are in these two, so neither grows with history
CREATE INDEX entries_unresolved ON entries (account, authorization)
    WHERE state IN ('held', 'in_doubt');
CREATE INDEX entries_doubts ON entries (account, reserved_at, idempotency_key)
    WHERE state IN ('held', 'in_doubt');
-- at most one unfreeze of an authorization is unresolved or executed
CREATE UNIQUE INDEX entries_one_unfreeze ON entries (account, authorization)
    WHERE operation = 'unfreeze' AND state <> 'not_executed';

CREATE TABLE events (
    id               INTEGER PRIMARY KEY,
    account          TEXT NOT NULL,
    at               INTEGER NOT NULL,
    kind             TEXT NOT NULL,
    authorization    TEXT NOT NULL,
    idempotency_key  TEXT,
    from_state       TEXT,
    to_state         TEXT,
    amount           INTEGER NOT NULL,
    detail           TEXT
) STRICT;

CREATE INDEX events_of_entry ON events (account, idempotency_key, id);

CREATE TRIGGER events_are_final BEFORE UPDATE ON events
    BEGIN SELECT RAISE(ABORT, 'events are append-only'); END;
CREATE TRIGGER events_stay BEFORE DELETE ON events
    BEGIN SELECT RAISE(ABORT, 'events are append-only'); END;
CREATE TRIGGER entries_stay BEFORE DELETE ON entries
    BEGIN SELECT RAISE(ABORT, 'entries are never deleted'); END;
CREATE TRIGGER movements_stay BEFORE DELETE ON movements
    BEGIN SELECT RAISE(ABORT, 'movements are never deleted'); END;
CREATE TRIGGER authorizations_stay BEFORE DELETE ON authorizations
    BEGIN SELECT RAISE(ABORT, 'authorizations are never deleted'); END;
-- an ended entry never changes, unless it may run again
CREATE TRIGGER entries_end_for_good BEFORE UPDATE ON entries
    WHEN old.state = 'executed' OR (old.state = 'not_executed' AND NOT (old.rerunnable AND new.state = 'held'))
    BEGIN SELECT RAISE(ABORT, 'an ended entry never changes'); END;

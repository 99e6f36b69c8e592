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
    kind             TEXT NOT NULL CHECK (kind IN ('authorization', 'capture', 'unfreeze', 'refund', 'unknown')),
    authorization    TEXT NOT NULL,
    amount           INTEGER NOT NULL CHECK (amount >= 1),
    idempotency_key  TEXT,
    executed         INTEGER NOT NULL CHECK (executed IN (0, 1)),
    refunded         INTEGER NOT NULL CHECK (refunded >= 0),
    refund_claimed   INTEGER NOT NULL CHECK (refund_claimed >= 0),
    foreign_refunded INTEGER NOT NULL CHECK (foreign_refunded >= 0),
    PRIMARY KEY (account, syssn),
    FOREIGN KEY (account, authorization) REFERENCES authorizations (account, syssn),
    CHECK (refunded + refund_claimed <= amount)
) STRICT, WITHOUT ROWID;

CREATE INDEX movements_of_entry ON movements (account, idempotency_key)
    WHERE idempotency_key IS NOT NULL;

-- with a rowid, unlike the others: its rows are wide, and grow as they end (files made before have it without)
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
    attention        TEXT,
    absences         INTEGER NOT NULL CHECK (absences >= 0),
    raw              TEXT,
    PRIMARY KEY (account, idempotency_key),
    FOREIGN KEY (account, authorization) REFERENCES authorizations (account, syssn),
    CHECK ((state IN ('held', 'in_doubt')) = (concluded_at IS NULL))
) STRICT;

-- only unresolved entries are in these two, so neither grows with history
CREATE INDEX entries_unresolved ON entries (account, authorization, idempotency_key)
    WHERE state IN ('held', 'in_doubt');
CREATE INDEX entries_doubts ON entries (account, reserved_at, idempotency_key)
    WHERE state IN ('held', 'in_doubt');
-- evidence is looked up by our own number, and by hold; reports by the time of the end
CREATE INDEX entries_number ON entries (account, out_trade_no)
    WHERE out_trade_no IS NOT NULL AND operation <> 'unfreeze';
CREATE INDEX entries_of_hold ON entries (account, authorization);
CREATE INDEX entries_executed ON entries (account, concluded_at, idempotency_key)
    WHERE state = 'executed';
-- holds with money uncaptured or claimed
CREATE INDEX authorizations_open ON authorizations (account, syssn)
    WHERE amount > captured + foreign_captured AND unfrozen + foreign_unfrozen = 0;
CREATE INDEX authorizations_first ON authorizations (account, registered_at);
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

-- what this account's own answered operations have shown of the enquiry's words
CREATE TABLE words (
    account  TEXT NOT NULL,
    kind     TEXT NOT NULL,
    word     TEXT NOT NULL,
    linked   INTEGER NOT NULL CHECK (linked IN (0, 1)),
    PRIMARY KEY (account, kind, word)
) STRICT, WITHOUT ROWID;

CREATE TABLE discrepancies (
    id               INTEGER PRIMARY KEY,
    account          TEXT NOT NULL,
    at               INTEGER NOT NULL,
    kind             TEXT NOT NULL,
    authorization    TEXT,
    syssn            TEXT,
    idempotency_key  TEXT,
    ours             TEXT NOT NULL,
    theirs           TEXT NOT NULL,
    fingerprint      TEXT NOT NULL,
    reported         INTEGER NOT NULL CHECK (reported IN (0, 1)),
    UNIQUE (account, fingerprint)
) STRICT;

CREATE INDEX discrepancies_new ON discrepancies (account, id) WHERE reported = 0;

CREATE TABLE notices (
    id                 INTEGER PRIMARY KEY,
    account            TEXT NOT NULL,
    received_at        INTEGER NOT NULL,
    digest             TEXT NOT NULL,
    kind               TEXT NOT NULL,
    syssn              TEXT,
    orig_syssn         TEXT,
    out_trade_no       TEXT,
    orig_out_trade_no  TEXT,
    amount             INTEGER,
    currency           TEXT,
    code               TEXT,
    system_time        INTEGER,
    raw                TEXT NOT NULL,
    open               INTEGER NOT NULL CHECK (open IN (0, 1)),
    UNIQUE (account, digest)
) STRICT;

CREATE INDEX notices_open ON notices (account, orig_syssn) WHERE open = 1;

CREATE TABLE bookmarks (
    account     TEXT PRIMARY KEY,
    read_until  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TRIGGER notices_stay BEFORE DELETE ON notices
    BEGIN SELECT RAISE(ABORT, 'notices are never deleted'); END;
CREATE TRIGGER discrepancies_stay BEFORE DELETE ON discrepancies
    BEGIN SELECT RAISE(ABORT, 'discrepancies are never deleted'); END;
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

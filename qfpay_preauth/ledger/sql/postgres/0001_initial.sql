-- The ledger on PostgreSQL, version 1. Times are integer microseconds since 1970 UTC (to_timestamp(x / 1e6) shows them);
-- amounts are integer minor units. Nothing is ever deleted, events are never changed, ended entries neither: the triggers
-- at the end hold that. It runs with search_path set to the ledger's own schema; everything else names the schema.
-- Ids and keys are compared byte by byte (COLLATE "C"), so no index depends on the system's locales.

CREATE TABLE meta (
    name   text COLLATE "C" PRIMARY KEY,
    value  text NOT NULL
);

-- one row for each writer: the random mark of its last transaction, by which a COMMIT without an answer is judged
CREATE TABLE writers (
    writer  text COLLATE "C" PRIMARY KEY,
    mark    text NOT NULL
);

CREATE TABLE authorizations (
    account           text COLLATE "C" NOT NULL,
    syssn             text COLLATE "C" NOT NULL,
    amount            bigint NOT NULL CHECK (amount BETWEEN 1 AND 99999999999),
    currency          text NOT NULL,
    out_trade_no      text NOT NULL,
    registered_at     bigint NOT NULL,
    authorized_at     bigint,
    capture_window    bigint,
    captured          bigint NOT NULL CHECK (captured >= 0),
    claimed           bigint NOT NULL CHECK (claimed >= 0),
    unfrozen          bigint NOT NULL CHECK (unfrozen >= 0),
    refunded          bigint NOT NULL CHECK (refunded >= 0),
    foreign_captured  bigint NOT NULL CHECK (foreign_captured >= 0),
    foreign_unfrozen  bigint NOT NULL CHECK (foreign_unfrozen >= 0),
    foreign_refunded  bigint NOT NULL CHECK (foreign_refunded >= 0),
    flagged           boolean NOT NULL,
    revision          bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (account, syssn),
    -- our own captures, claims and unfreeze together never exceed the hold
    CONSTRAINT never_over_the_hold CHECK (captured + claimed + unfrozen <= amount),
    CONSTRAINT never_refunded_over_captured CHECK (refunded <= captured + foreign_captured)
) WITH (fillfactor = 80);

CREATE TABLE movements (
    account           text COLLATE "C" NOT NULL,
    syssn             text COLLATE "C" NOT NULL,
    kind              text NOT NULL CHECK (kind IN ('authorization', 'capture', 'unfreeze', 'refund', 'unknown')),
    "authorization"   text COLLATE "C" NOT NULL,
    amount            bigint NOT NULL CHECK (amount >= 1),
    idempotency_key   text COLLATE "C",
    executed          boolean NOT NULL,
    refunded          bigint NOT NULL CHECK (refunded >= 0),
    refund_claimed    bigint NOT NULL CHECK (refund_claimed >= 0),
    foreign_refunded  bigint NOT NULL CHECK (foreign_refunded >= 0),
    revision          bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (account, syssn),
    FOREIGN KEY (account, "authorization") REFERENCES authorizations (account, syssn),
    CONSTRAINT never_refunded_over_its_capture CHECK (refunded + refund_claimed <= amount)
);

CREATE INDEX movements_of_entry ON movements (account, idempotency_key)
    WHERE idempotency_key IS NOT NULL;

CREATE TABLE entries (
    account           text COLLATE "C" NOT NULL,
    idempotency_key   text COLLATE "C" NOT NULL,
    operation         text NOT NULL CHECK (operation IN ('capture', 'unfreeze', 'refund')),
    "authorization"   text COLLATE "C" NOT NULL,
    syssn             text COLLATE "C" NOT NULL,
    amount            bigint NOT NULL CHECK (amount BETWEEN 1 AND 99999999999),
    currency          text NOT NULL,
    out_trade_no      text COLLATE "C",
    state             text NOT NULL CHECK (state IN ('held', 'in_doubt', 'executed', 'not_executed')),
    attempt           bigint NOT NULL CHECK (attempt >= 1),
    reserved_at       bigint NOT NULL,
    send_by           bigint NOT NULL,
    doubt_at          bigint NOT NULL,
    why               text,
    rerunnable        boolean NOT NULL,
    result_syssn      text,
    code              text,
    message           text,
    detail            text,
    system_time       bigint,
    confirmed_by      text,
    concluded_at      bigint,
    reason            text,
    attention         text,
    absences          bigint NOT NULL CHECK (absences >= 0),
    raw               text,
    revision          bigint NOT NULL DEFAULT 0,
    -- the hold, and the moment, of an entry that is unresolved: the only columns that lead to open work, so that no plan
    -- can ever read an account's history on the way to it
    unresolved_of     text COLLATE "C" GENERATED ALWAYS AS
        (CASE WHEN state IN ('held', 'in_doubt') THEN "authorization" END) STORED,
    unresolved_since  bigint GENERATED ALWAYS AS
        (CASE WHEN state IN ('held', 'in_doubt') THEN reserved_at END) STORED,
    PRIMARY KEY (account, idempotency_key),
    FOREIGN KEY (account, "authorization") REFERENCES authorizations (account, syssn),
    CONSTRAINT ended_with_a_time CHECK ((state IN ('held', 'in_doubt')) = (concluded_at IS NULL))
) WITH (fillfactor = 80);

-- only unresolved entries are in these two, so neither grows with history
CREATE INDEX entries_unresolved ON entries (account, unresolved_of)
    WHERE unresolved_of IS NOT NULL;
CREATE INDEX entries_doubts ON entries (account, unresolved_since, idempotency_key)
    WHERE unresolved_since IS NOT NULL;
-- evidence is looked up by our own number, and by hold; reports by the time of the end
CREATE INDEX entries_number ON entries (account, out_trade_no)
    WHERE out_trade_no IS NOT NULL AND operation <> 'unfreeze';
CREATE INDEX entries_of_hold ON entries (account, "authorization");
CREATE INDEX entries_executed ON entries (account, concluded_at, idempotency_key)
    WHERE state = 'executed';
-- holds with money uncaptured or claimed
CREATE INDEX authorizations_open ON authorizations (account, syssn)
    WHERE amount > captured + foreign_captured AND unfrozen + foreign_unfrozen = 0;
CREATE INDEX authorizations_first ON authorizations (account, registered_at);
-- at most one unfreeze of an authorization is unresolved or executed
CREATE UNIQUE INDEX entries_one_unfreeze ON entries (account, "authorization")
    WHERE operation = 'unfreeze' AND state <> 'not_executed';

CREATE TABLE events (
    id                bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    account           text COLLATE "C" NOT NULL,
    at                bigint NOT NULL,
    kind              text NOT NULL,
    "authorization"   text NOT NULL,
    idempotency_key   text COLLATE "C",
    from_state        text,
    to_state          text,
    amount            bigint NOT NULL,
    detail            text
);

CREATE INDEX events_of_entry ON events (account, idempotency_key, id);

-- what this account's own answered operations have shown of the enquiry's words
CREATE TABLE words (
    account  text COLLATE "C" NOT NULL,
    kind     text COLLATE "C" NOT NULL,
    word     text COLLATE "C" NOT NULL,
    linked   boolean NOT NULL,
    PRIMARY KEY (account, kind, word)
);

-- `fingerprint` is a hash of all that a discrepancy says: each is noted once
CREATE TABLE discrepancies (
    id                bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    account           text COLLATE "C" NOT NULL,
    at                bigint NOT NULL,
    kind              text NOT NULL,
    "authorization"   text,
    syssn             text,
    idempotency_key   text,
    ours              text NOT NULL,
    theirs            text NOT NULL,
    fingerprint       text COLLATE "C" NOT NULL,
    reported          boolean NOT NULL,
    UNIQUE (account, fingerprint)
);

CREATE INDEX discrepancies_new ON discrepancies (account, id) WHERE NOT reported;

CREATE TABLE notices (
    id                 bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    account            text COLLATE "C" NOT NULL,
    received_at        bigint NOT NULL,
    digest             text COLLATE "C" NOT NULL,
    kind               text NOT NULL,
    syssn              text,
    orig_syssn         text,
    out_trade_no       text,
    orig_out_trade_no  text,
    amount             bigint,
    currency           text,
    code               text,
    system_time        bigint,
    raw                text NOT NULL,
    open               boolean NOT NULL,
    UNIQUE (account, digest)
);

CREATE INDEX notices_open ON notices (account, orig_syssn, id) WHERE open;

CREATE TABLE bookmarks (
    account     text COLLATE "C" PRIMARY KEY,
    read_until  bigint NOT NULL
);

-- what the processes have sent within the last minute; no part of the books, and worth nothing later
CREATE TABLE windows (
    name   text COLLATE "C" PRIMARY KEY,
    state  text NOT NULL
) WITH (fillfactor = 20);

CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'restrict_violation', MESSAGE = TG_ARGV[0];
END
$$;

CREATE TRIGGER events_are_final BEFORE UPDATE OR DELETE ON events
    FOR EACH ROW EXECUTE FUNCTION refuse('events are append-only');
CREATE TRIGGER events_stay BEFORE TRUNCATE ON events
    FOR EACH STATEMENT EXECUTE FUNCTION refuse('events are append-only');
CREATE TRIGGER entries_stay BEFORE DELETE ON entries
    FOR EACH ROW EXECUTE FUNCTION refuse('entries are never deleted');
CREATE TRIGGER entries_all_stay BEFORE TRUNCATE ON entries
    FOR EACH STATEMENT EXECUTE FUNCTION refuse('entries are never deleted');
CREATE TRIGGER movements_stay BEFORE DELETE ON movements
    FOR EACH ROW EXECUTE FUNCTION refuse('movements are never deleted');
CREATE TRIGGER movements_all_stay BEFORE TRUNCATE ON movements
    FOR EACH STATEMENT EXECUTE FUNCTION refuse('movements are never deleted');
CREATE TRIGGER authorizations_stay BEFORE DELETE ON authorizations
    FOR EACH ROW EXECUTE FUNCTION refuse('authorizations are never deleted');
CREATE TRIGGER authorizations_all_stay BEFORE TRUNCATE ON authorizations
    FOR EACH STATEMENT EXECUTE FUNCTION refuse('authorizations are never deleted');
CREATE TRIGGER discrepancies_stay BEFORE DELETE ON discrepancies
    FOR EACH ROW EXECUTE FUNCTION refuse('discrepancies are never deleted');
CREATE TRIGGER discrepancies_all_stay BEFORE TRUNCATE ON discrepancies
    FOR EACH STATEMENT EXECUTE FUNCTION refuse('discrepancies are never deleted');
CREATE TRIGGER notices_stay BEFORE DELETE ON notices
    FOR EACH ROW EXECUTE FUNCTION refuse('notices are never deleted');
CREATE TRIGGER notices_all_stay BEFORE TRUNCATE ON notices
    FOR EACH STATEMENT EXECUTE FUNCTION refuse('notices are never deleted');
-- an ended entry never changes, unless it may run again
CREATE TRIGGER entries_end_for_good BEFORE UPDATE ON entries FOR EACH ROW
    WHEN (OLD.state = 'executed'
          OR (OLD.state = 'not_executed' AND NOT (OLD.rerunnable AND NEW.state = 'held')))
    EXECUTE FUNCTION refuse('an ended entry never changes');

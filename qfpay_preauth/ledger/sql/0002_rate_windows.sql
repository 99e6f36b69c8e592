-- what the processes of one machine have sent within the last minute; no part of the books, and worth nothing later
CREATE TABLE windows (
    name   TEXT PRIMARY KEY,
    state  TEXT NOT NULL
) STRICT, WITHOUT ROWID;

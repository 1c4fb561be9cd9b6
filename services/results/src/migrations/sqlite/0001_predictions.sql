CREATE TABLE predictions (
    pipeline        TEXT NOT NULL,
    id              TEXT NOT NULL,
    key             TEXT NOT NULL,
    event_time_ms   INTEGER NOT NULL,
    probability     REAL NOT NULL,
    decision        TEXT NOT NULL,
    model           TEXT NOT NULL,
    version         TEXT NOT NULL,
    variant         TEXT NOT NULL,
    config_hash     BLOB NOT NULL,
    input_topic     TEXT NOT NULL,
    input_partition INTEGER NOT NULL,
    input_offset    INTEGER NOT NULL,
    predicted_at_ms INTEGER NOT NULL,
    PRIMARY KEY (pipeline, id)
) STRICT;

CREATE INDEX predictions_by_time ON predictions (pipeline, event_time_ms, id);
CREATE INDEX predictions_by_key ON predictions (pipeline, key, event_time_ms, id);
CREATE INDEX predictions_by_decision ON predictions (pipeline, decision, event_time_ms, id);

-- Where consuming goes on; moved in the transaction that inserts the rows before it.
CREATE TABLE offsets (
    topic       TEXT NOT NULL,
    partition   INTEGER NOT NULL,
    next_offset INTEGER NOT NULL,
    cluster_id  TEXT NOT NULL,
    -- Null until a broker told it.
    topic_id    TEXT,
    PRIMARY KEY (topic, partition)
) STRICT, WITHOUT ROWID;

-- What each pipeline stored and what came again. Several rows a pipeline, as in PostgreSQL: only
-- their sum has a meaning. Deleting predictions does not lower it.
CREATE TABLE counters (
    pipeline   TEXT NOT NULL,
    shard      INTEGER NOT NULL,
    stored     INTEGER NOT NULL,
    duplicates INTEGER NOT NULL,
    PRIMARY KEY (pipeline, shard)
) STRICT, WITHOUT ROWID;

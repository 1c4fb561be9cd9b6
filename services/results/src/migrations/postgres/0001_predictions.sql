-- Texts compare by bytes (COLLATE "C"): fast, and the same order as in SQLite.
CREATE TABLE predictions (
    pipeline        text COLLATE "C" NOT NULL,
    id              text COLLATE "C" NOT NULL,
    key             text COLLATE "C" NOT NULL,
    event_time_ms   bigint NOT NULL,
    probability     double precision NOT NULL,
    decision        text COLLATE "C" NOT NULL,
    model           text NOT NULL,
    version         text NOT NULL,
    variant         text NOT NULL,
    config_hash     bytea NOT NULL,
    input_topic     text NOT NULL,
    input_partition integer NOT NULL,
    input_offset    bigint NOT NULL,
    predicted_at_ms bigint NOT NULL,
    PRIMARY KEY (pipeline, id)
);

CREATE INDEX predictions_by_time ON predictions (pipeline, event_time_ms, id);
CREATE INDEX predictions_by_key ON predictions (pipeline, key, event_time_ms, id);
CREATE INDEX predictions_by_decision ON predictions (pipeline, decision, event_time_ms, id);

-- Where consuming goes on; moved in the transaction that inserts the rows before it.
CREATE TABLE offsets (
    topic       text COLLATE "C" NOT NULL,
    partition   integer NOT NULL,
    next_offset bigint NOT NULL,
    cluster_id  text NOT NULL,
    -- Null until a broker told it.
    topic_id    text,
    PRIMARY KEY (topic, partition)
);

-- What each pipeline stored and what came again. Several rows a pipeline, so that replicas do not
-- wait for each other: only their sum has a meaning. Deleting predictions does not lower it.
CREATE TABLE counters (
    pipeline   text COLLATE "C" NOT NULL,
    shard      integer NOT NULL,
    stored     bigint NOT NULL,
    duplicates bigint NOT NULL,
    PRIMARY KEY (pipeline, shard)
);

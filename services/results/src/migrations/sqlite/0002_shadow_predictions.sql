-- What shadows predicted: apart from what was answered, so that no question about answers ever meets it. A shadow has
-- an id once, as often as there are shadows.
CREATE TABLE shadow_predictions (
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
    PRIMARY KEY (pipeline, id, variant)
) STRICT;

CREATE INDEX shadow_predictions_by_time ON shadow_predictions (pipeline, event_time_ms, id, variant);
CREATE INDEX shadow_predictions_by_key ON shadow_predictions (pipeline, key, event_time_ms, id, variant);

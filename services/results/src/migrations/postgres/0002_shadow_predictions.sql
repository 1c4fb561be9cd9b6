-- What shadows predicted: apart from what was answered, so that no question about answers ever meets it. A shadow has
-- an id once, as often as there are shadows.
CREATE TABLE shadow_predictions (
    pipeline        text COLLATE "C" NOT NULL,
    id              text COLLATE "C" NOT NULL,
    key             text COLLATE "C" NOT NULL,
    event_time_ms   bigint NOT NULL,
    probability     double precision NOT NULL,
    decision        text COLLATE "C" NOT NULL,
    model           text NOT NULL,
    version         text NOT NULL,
    variant         text COLLATE "C" NOT NULL,
    config_hash     bytea NOT NULL,
    input_topic     text NOT NULL,
    input_partition integer NOT NULL,
    input_offset    bigint NOT NULL,
    predicted_at_ms bigint NOT NULL,
    PRIMARY KEY (pipeline, id, variant)
);

CREATE INDEX shadow_predictions_by_time ON shadow_predictions (pipeline, event_time_ms, id, variant);
CREATE INDEX shadow_predictions_by_key ON shadow_predictions (pipeline, key, event_time_ms, id, variant);

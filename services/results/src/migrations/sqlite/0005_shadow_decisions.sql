-- For lists of shadows by decision alone; the table of answers has the same since its beginning.
CREATE INDEX shadow_predictions_by_decision ON shadow_predictions (pipeline, decision, event_time_ms, id, variant);

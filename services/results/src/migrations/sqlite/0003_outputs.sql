-- All outputs of a model that has several, 8 bytes each, little-endian; empty where the probability is all there is.
ALTER TABLE predictions ADD COLUMN outputs BLOB NOT NULL DEFAULT x'';
ALTER TABLE shadow_predictions ADD COLUMN outputs BLOB NOT NULL DEFAULT x'';

-- Offsets are ordered by the generation of their log, then by the offset, and move forward only: where a log was cut off,
-- what comes after belongs to the next generation.
ALTER TABLE offsets ADD COLUMN generation INTEGER NOT NULL DEFAULT 0;

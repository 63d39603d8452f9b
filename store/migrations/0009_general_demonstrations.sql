-- Demonstrations of what a policy should keep knowing. Nobody judges them: a run replays some of
-- them beside what it learns, and is measured on others.
CREATE TABLE general_demonstrations (
    id VARCHAR PRIMARY KEY,
    prompt STRUCT("role" VARCHAR, "content" VARCHAR)[] NOT NULL,
    completion VARCHAR NOT NULL,
    source VARCHAR NOT NULL,
    created_at TIMESTAMPTZ NOT NULL
);

-- The snapshot of them that a run was given; NULL where there were none.
ALTER TABLE runs ADD COLUMN general_snapshot_id VARCHAR;

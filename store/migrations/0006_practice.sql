-- Comparisons with a known verdict, of purpose 'practice': they show newcomers how the guidelines are
-- meant. Without an expected completion a tie is expected. Nothing else is derived from them.
CREATE SEQUENCE practice_seq;
CREATE TABLE practice_items (
    comparison_id VARCHAR PRIMARY KEY,
    seq BIGINT NOT NULL DEFAULT nextval('practice_seq'),
    expected_completion_id VARCHAR,
    explanation VARCHAR NOT NULL,
    created_by VARCHAR NOT NULL,
    created_at TIMESTAMPTZ NOT NULL,
    is_active BOOLEAN NOT NULL
);

-- Which comparison is which turn of whose conversation in the arena: nobody else is ever given it.
-- Turns count from 1; of several with one number the latest is where the conversation stands.
CREATE SEQUENCE arena_turn_seq;
CREATE TABLE arena_turns (
    comparison_id VARCHAR PRIMARY KEY,
    seq BIGINT NOT NULL DEFAULT nextval('arena_turn_seq'),
    conversation_id VARCHAR NOT NULL,
    annotator_id VARCHAR NOT NULL,
    turn INTEGER NOT NULL CHECK (turn >= 1),
    created_at TIMESTAMPTZ NOT NULL
);

-- What a program can look for in a response to a prompt, as a list of {kind, value} in JSON. Of
-- several rows of one prompt the newest counts.
CREATE SEQUENCE prompt_checks_seq;
CREATE TABLE prompt_checks (
    seq BIGINT NOT NULL DEFAULT nextval('prompt_checks_seq'),
    prompt_id VARCHAR NOT NULL,
    checks JSON NOT NULL,
    source VARCHAR NOT NULL,
    created_at TIMESTAMPTZ NOT NULL
);

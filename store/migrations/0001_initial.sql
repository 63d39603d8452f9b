CREATE TABLE settings (
    key VARCHAR PRIMARY KEY,
    value JSON NOT NULL
);

CREATE TABLE annotators (
    id VARCHAR PRIMARY KEY,
    name VARCHAR NOT NULL,
    role VARCHAR NOT NULL CHECK (role IN ('annotator', 'lead', 'source')),
    password_hash VARCHAR,
    is_active BOOLEAN NOT NULL,
    created_at TIMESTAMPTZ NOT NULL
);

CREATE TABLE sessions (
    token_sha256 VARCHAR PRIMARY KEY,
    annotator_id VARCHAR NOT NULL,
    created_at TIMESTAMPTZ NOT NULL,
    expires_at TIMESTAMPTZ NOT NULL
);

CREATE TABLE imports (
    id VARCHAR PRIMARY KEY,
    name VARCHAR NOT NULL,
    format VARCHAR NOT NULL,
    created_by VARCHAR NOT NULL,
    created_at TIMESTAMPTZ NOT NULL,
    accepted BIGINT NOT NULL,
    known BIGINT NOT NULL,
    refused BIGINT NOT NULL
);

CREATE TABLE prompts (
    id VARCHAR PRIMARY KEY,
    messages STRUCT("role" VARCHAR, "content" VARCHAR)[] NOT NULL,
    language VARCHAR NOT NULL,
    split VARCHAR NOT NULL CHECK (split IN ('train', 'held_out')),
    source VARCHAR NOT NULL,
    created_at TIMESTAMPTZ NOT NULL
);

CREATE TABLE policies (
    version VARCHAR PRIMARY KEY,
    base_model VARCHAR NOT NULL,
    parent_version VARCHAR,
    adapter_path VARCHAR,
    adapter_sha256 VARCHAR,
    run_id VARCHAR,
    snapshot_id VARCHAR,
    created_at TIMESTAMPTZ NOT NULL
);

CREATE SEQUENCE promotion_seq;
CREATE TABLE promotions (
    id VARCHAR PRIMARY KEY,
    seq BIGINT NOT NULL DEFAULT nextval('promotion_seq'),
    version VARCHAR NOT NULL,
    previous_version VARCHAR,
    kind VARCHAR NOT NULL CHECK (kind IN ('initial', 'promote', 'roll_back')),
    annotator_id VARCHAR,
    created_at TIMESTAMPTZ NOT NULL
);

CREATE TABLE completions (
    id VARCHAR PRIMARY KEY,
    prompt_id VARCHAR NOT NULL,
    text VARCHAR NOT NULL,
    source VARCHAR NOT NULL,
    policy_version VARCHAR,
    adapter_sha256 VARCHAR,
    sampling STRUCT(temperature DOUBLE, top_p DOUBLE, top_k INTEGER, max_new_tokens INTEGER),
    seed BIGINT,
    finish_reason VARCHAR NOT NULL,
    token_count INTEGER,
    created_at TIMESTAMPTZ NOT NULL,
    author VARCHAR
);

CREATE TABLE comparisons (
    id VARCHAR PRIMARY KEY,
    prompt_id VARCHAR NOT NULL,
    completion_ids VARCHAR[] NOT NULL CHECK (len(completion_ids) >= 2),
    purpose VARCHAR NOT NULL CHECK (purpose IN ('collect', 'evaluate')),
    created_at TIMESTAMPTZ NOT NULL
);

CREATE TABLE leases (
    id VARCHAR PRIMARY KEY,
    comparison_id VARCHAR NOT NULL,
    annotator_id VARCHAR NOT NULL,
    display_order UTINYINT[] NOT NULL,
    leased_at TIMESTAMPTZ NOT NULL,
    expires_at TIMESTAMPTZ NOT NULL
);

CREATE SEQUENCE judgment_seq;
CREATE TABLE judgments (
    id VARCHAR PRIMARY KEY,
    seq BIGINT NOT NULL DEFAULT nextval('judgment_seq'),
    comparison_id VARCHAR NOT NULL,
    annotator_id VARCHAR NOT NULL,
    lease_id VARCHAR,
    verdict VARCHAR NOT NULL
        CHECK (verdict IN ('preferred', 'tie', 'both_bad', 'skipped', 'retracted')),
    preferred_completion_id VARCHAR,
    strength UTINYINT CHECK (strength BETWEEN 1 AND 3),
    reason VARCHAR,
    displayed_completion_ids VARCHAR[] NOT NULL,
    supersedes VARCHAR,
    duration_ms BIGINT,
    source VARCHAR NOT NULL,
    recorded_at TIMESTAMPTZ NOT NULL,
    CHECK ((verdict = 'preferred') = (preferred_completion_id IS NOT NULL)),
    CHECK ((verdict = 'preferred') = (strength IS NOT NULL))
);

-- A judgment counts once per comparison and annotator: the latest row, unless it is an undo.
CREATE VIEW effective_judgments AS
SELECT * FROM (
    SELECT * FROM judgments
    QUALIFY row_number() OVER (PARTITION BY comparison_id, annotator_id ORDER BY seq DESC) = 1
)
WHERE verdict <> 'retracted';

-- What the judgments of one comparison say together; a draw says nothing.
CREATE VIEW preferences AS
WITH signed AS (
    SELECT
        c.id AS comparison_id,
        c.prompt_id,
        c.purpose,
        c.completion_ids,
        j.id AS judgment_id,
        j.seq,
        CASE
            WHEN j.preferred_completion_id = c.completion_ids[1] THEN j.strength::INTEGER
            WHEN j.preferred_completion_id = c.completion_ids[2] THEN -j.strength::INTEGER
            ELSE 0
        END AS strength
    FROM effective_judgments j
    JOIN comparisons c ON c.id = j.comparison_id
    WHERE len(c.completion_ids) = 2 AND j.verdict IN ('preferred', 'tie', 'both_bad')
)
SELECT
    comparison_id,
    any_value(prompt_id) AS prompt_id,
    any_value(purpose) AS purpose,
    CASE WHEN sum(strength) > 0 THEN any_value(completion_ids)[1]
         ELSE any_value(completion_ids)[2] END AS chosen_completion_id,
    CASE WHEN sum(strength) > 0 THEN any_value(completion_ids)[2]
         ELSE any_value(completion_ids)[1] END AS rejected_completion_id,
    abs(avg(strength)) AS margin,
    list(judgment_id ORDER BY seq) AS sources,
    max(seq) AS max_judgment_seq
FROM signed
GROUP BY comparison_id
HAVING sum(strength) <> 0;

CREATE TABLE snapshots (
    id VARCHAR PRIMARY KEY,
    path VARCHAR NOT NULL,
    "rows" BIGINT NOT NULL,
    max_judgment_seq BIGINT NOT NULL,
    created_by VARCHAR NOT NULL,
    created_at TIMESTAMPTZ NOT NULL
);

CREATE TABLE snapshot_judgments (
    snapshot_id VARCHAR NOT NULL,
    judgment_id VARCHAR NOT NULL
);

CREATE TABLE runs (
    id VARCHAR PRIMARY KEY,
    method VARCHAR NOT NULL,
    spec JSON NOT NULL,
    snapshot_id VARCHAR NOT NULL,
    parent_version VARCHAR NOT NULL,
    state VARCHAR NOT NULL
        CHECK (state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled', 'interrupted')),
    folder VARCHAR NOT NULL,
    created_by VARCHAR NOT NULL,
    created_at TIMESTAMPTZ NOT NULL,
    pid BIGINT,
    pid_started_at DOUBLE,
    started_at TIMESTAMPTZ,
    finished_at TIMESTAMPTZ,
    error VARCHAR,
    result JSON
);

CREATE TABLE run_events (
    run_id VARCHAR NOT NULL,
    seq BIGINT NOT NULL,
    written_at DOUBLE NOT NULL,
    kind VARCHAR NOT NULL,
    data JSON NOT NULL,
    PRIMARY KEY (run_id, seq)
);

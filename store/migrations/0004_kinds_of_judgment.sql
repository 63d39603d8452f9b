-- Rankings, ratings, criteria, reasons, flags and rewrites beside the choice between two.
-- A CHECK cannot be changed in place, so two tables are made anew with all their rows; the views
-- on them follow.
DROP VIEW preferences;
DROP VIEW effective_judgments;

ALTER TABLE comparisons RENAME TO comparisons_before;
CREATE TABLE comparisons (
    id VARCHAR PRIMARY KEY,
    prompt_id VARCHAR NOT NULL,
    completion_ids VARCHAR[] NOT NULL CHECK (len(completion_ids) BETWEEN 1 AND 9),
    purpose VARCHAR NOT NULL CHECK (purpose IN ('collect', 'evaluate', 'practice')),
    created_at TIMESTAMPTZ NOT NULL
);
INSERT INTO comparisons SELECT id, prompt_id, completion_ids, purpose, created_at
FROM comparisons_before;
DROP TABLE comparisons_before;

ALTER TABLE judgments RENAME TO judgments_before;
CREATE TABLE judgments (
    id VARCHAR PRIMARY KEY,
    seq BIGINT NOT NULL DEFAULT nextval('judgment_seq'),
    comparison_id VARCHAR NOT NULL,
    annotator_id VARCHAR NOT NULL,
    lease_id VARCHAR,
    verdict VARCHAR NOT NULL CHECK (verdict IN (
        'preferred', 'tie', 'both_bad', 'ranked', 'not_rankable', 'rated', 'skipped', 'retracted'
    )),
    preferred_completion_id VARCHAR,
    strength UTINYINT CHECK (strength BETWEEN 1 AND 3),
    reason VARCHAR,
    displayed_completion_ids VARCHAR[] NOT NULL,
    supersedes VARCHAR,
    duration_ms BIGINT,
    source VARCHAR NOT NULL,
    recorded_at TIMESTAMPTZ NOT NULL,
    guidelines_version INTEGER,
    -- One entry for each of displayed_completion_ids; NULL where there is none.
    ranks UTINYINT[],
    ratings UTINYINT[],
    rating_scale VARCHAR CHECK (rating_scale IN ('thumbs', 'five_point')),
    criteria STRUCT(
        "name" VARCHAR, scale VARCHAR, preferred_completion_id VARCHAR, strength UTINYINT,
        ratings UTINYINT[]
    )[],
    reasons VARCHAR[],
    rationale VARCHAR,
    flags STRUCT(kind VARCHAR, completion_id VARCHAR)[],
    rewrite_completion_id VARCHAR,
    rewritten_completion_id VARCHAR,
    CHECK ((verdict = 'preferred') = (preferred_completion_id IS NOT NULL)),
    CHECK ((verdict = 'preferred') = (strength IS NOT NULL)),
    CHECK ((verdict = 'ranked') = (ranks IS NOT NULL)),
    CHECK ((verdict = 'rated') = (ratings IS NOT NULL)),
    CHECK ((ratings IS NULL) = (rating_scale IS NULL)),
    CHECK (ranks IS NULL OR len(ranks) = len(displayed_completion_ids)),
    CHECK (ratings IS NULL OR len(ratings) = len(displayed_completion_ids))
);
INSERT INTO judgments BY NAME SELECT * FROM judgments_before;
DROP TABLE judgments_before;

-- A judgment counts once per comparison and annotator: the latest row, unless it is an undo.
CREATE VIEW effective_judgments AS
SELECT * FROM (
    SELECT * FROM judgments
    QUALIFY row_number() OVER (PARTITION BY comparison_id, annotator_id ORDER BY seq DESC) = 1
)
WHERE verdict <> 'retracted';

-- What leads decided about flagged comparisons; append-only, the latest row holds.
CREATE SEQUENCE review_seq;
CREATE TABLE reviews (
    id VARCHAR PRIMARY KEY,
    seq BIGINT NOT NULL DEFAULT nextval('review_seq'),
    comparison_id VARCHAR NOT NULL,
    decision VARCHAR NOT NULL CHECK (decision IN ('kept', 'withdrawn')),
    note VARCHAR,
    annotator_id VARCHAR NOT NULL,
    recorded_at TIMESTAMPTZ NOT NULL
);

-- Judgments of comparisons that no lead has withdrawn: nothing else is derived from the others.
CREATE VIEW usable_judgments AS
SELECT * FROM effective_judgments
WHERE comparison_id NOT IN (
    SELECT comparison_id FROM (
        SELECT comparison_id, decision FROM reviews
        QUALIFY row_number() OVER (PARTITION BY comparison_id ORDER BY seq DESC) = 1
    )
    WHERE decision = 'withdrawn'
);

-- What one judgment says of one pair of the responses shown: `strength` is above 0 where the
-- completion stored earlier is better, below 0 where the other one is. In a ranking it is the
-- distance in ranks, 3 at most; what was left unranked is in no pair.
CREATE VIEW pair_judgments AS
WITH counted AS (
    SELECT c.prompt_id, c.purpose, c.completion_ids, j.*
    FROM usable_judgments j
    JOIN comparisons c ON c.id = j.comparison_id
),
ranked AS (
    SELECT r.*, unnest(range(1, len(r.completion_ids))) AS one
    FROM (
        SELECT * REPLACE (
            list_transform(
                completion_ids, lambda id: ranks[list_position(displayed_completion_ids, id)]
            ) AS ranks
        )
        FROM counted WHERE verdict = 'ranked'
    ) r
),
ranked_pairs AS (
    SELECT *, unnest(range(one + 1, len(completion_ids) + 1)) AS other FROM ranked
)
SELECT
    comparison_id, prompt_id, purpose, id AS judgment_id, seq,
    completion_ids[1] AS one_completion_id,
    completion_ids[2] AS other_completion_id,
    CASE
        WHEN preferred_completion_id = completion_ids[1] THEN strength::INTEGER
        WHEN preferred_completion_id = completion_ids[2] THEN -strength::INTEGER
        ELSE 0
    END AS strength
FROM counted
WHERE len(completion_ids) = 2 AND verdict IN ('preferred', 'tie', 'both_bad')
UNION ALL
SELECT
    comparison_id, prompt_id, purpose, id, seq, completion_ids[one], completion_ids[other],
    greatest(-3, least(3, ranks[other]::INTEGER - ranks[one]::INTEGER))
FROM ranked_pairs
WHERE ranks[one] IS NOT NULL AND ranks[other] IS NOT NULL;

-- A response that a person wrote or edited, and each response shown that it is better than: the
-- one it was made from and all that this one was not worse than; where it was written anew, all.
-- Each counts as 'better', strength 2.
CREATE VIEW rewrite_pairs AS
SELECT * FROM (
    SELECT
        c.id AS comparison_id, c.prompt_id, c.purpose, j.id AS judgment_id, j.seq,
        j.rewrite_completion_id,
        unnest(CASE
            WHEN j.verdict IN ('skipped', 'not_rankable', 'rated')
                THEN list_filter([j.rewritten_completion_id], lambda id: id IS NOT NULL)
            WHEN j.rewritten_completion_id IS NULL THEN j.displayed_completion_ids
            WHEN j.verdict = 'preferred' AND j.preferred_completion_id <> j.rewritten_completion_id
                THEN [j.rewritten_completion_id]
            WHEN j.verdict = 'ranked' THEN list_filter(
                j.displayed_completion_ids,
                lambda id: id = j.rewritten_completion_id
                    OR coalesce(
                        j.ranks[list_position(j.displayed_completion_ids, id)]
                        >= j.ranks[
                            list_position(j.displayed_completion_ids, j.rewritten_completion_id)
                        ],
                        false
                    )
            )
            ELSE j.displayed_completion_ids
        END) AS rejected_completion_id
    FROM usable_judgments j
    JOIN comparisons c ON c.id = j.comparison_id
    WHERE j.rewrite_completion_id IS NOT NULL
);

-- What the judgments of one comparison say together of each pair; a draw says nothing.
CREATE VIEW preferences AS
SELECT
    comparison_id,
    any_value(prompt_id) AS prompt_id,
    any_value(purpose) AS purpose,
    CASE WHEN sum(strength) > 0 THEN one_completion_id
         ELSE other_completion_id END AS chosen_completion_id,
    CASE WHEN sum(strength) > 0 THEN other_completion_id
         ELSE one_completion_id END AS rejected_completion_id,
    abs(avg(strength)) AS margin,
    list(judgment_id ORDER BY seq) AS sources,
    max(seq) AS max_judgment_seq
FROM pair_judgments
GROUP BY comparison_id, one_completion_id, other_completion_id
HAVING sum(strength) <> 0
UNION ALL
SELECT
    comparison_id, prompt_id, purpose, rewrite_completion_id, rejected_completion_id,
    2.0, [judgment_id], seq
FROM rewrite_pairs;

-- What people wrote themselves.
CREATE VIEW demonstrations AS
SELECT c.id AS comparison_id, c.prompt_id, c.purpose, j.id AS judgment_id, j.seq,
    j.annotator_id, j.rewrite_completion_id AS completion_id, j.rewritten_completion_id
FROM usable_judgments j
JOIN comparisons c ON c.id = j.comparison_id
WHERE j.rewrite_completion_id IS NOT NULL;

-- Ratings of single responses, put together: from 0 (worst) to 1 (best).
CREATE VIEW rated_completions AS
SELECT
    comparison_id,
    any_value(prompt_id) AS prompt_id,
    any_value(purpose) AS purpose,
    completion_id,
    avg(rating) AS rating,
    list(judgment_id ORDER BY seq) AS sources,
    max(seq) AS max_judgment_seq
FROM (
    SELECT
        c.id AS comparison_id, c.prompt_id, c.purpose, j.id AS judgment_id, j.seq,
        unnest(j.displayed_completion_ids) AS completion_id,
        unnest(list_transform(
            j.ratings,
            lambda r: CASE j.rating_scale WHEN 'thumbs' THEN r::DOUBLE ELSE (r::DOUBLE - 1) / 4 END
        )) AS rating
    FROM usable_judgments j
    JOIN comparisons c ON c.id = j.comparison_id
    WHERE j.verdict = 'rated'
)
WHERE rating IS NOT NULL
GROUP BY comparison_id, completion_id;

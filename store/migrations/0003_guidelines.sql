-- What annotators are asked to go by; never edited, a new version follows the old one.
CREATE TABLE guidelines (
    version INTEGER PRIMARY KEY,
    text VARCHAR NOT NULL,
    created_by VARCHAR NOT NULL,
    created_at TIMESTAMPTZ NOT NULL
);

-- Views remember their columns, so they are made anew after the change below.
DROP VIEW preferences;
DROP VIEW effective_judgments;

-- The version that was in force on the page; NULL where there was none, and for an import.
ALTER TABLE judgments ADD COLUMN guidelines_version INTEGER;

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

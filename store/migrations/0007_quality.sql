-- How far the lead saw who decided: the newest flagged judgment, by its seq. Flags that came after
-- it were not part of the decision.
ALTER TABLE reviews ADD COLUMN seen_seq BIGINT DEFAULT 0;

-- Comparisons that a lead has taken out.
CREATE VIEW withdrawn_comparisons AS
SELECT comparison_id FROM (
    SELECT comparison_id, decision FROM reviews
    QUALIFY row_number() OVER (PARTITION BY comparison_id ORDER BY seq DESC) = 1
)
WHERE decision = 'withdrawn';

CREATE OR REPLACE VIEW usable_judgments AS
SELECT * FROM effective_judgments
WHERE comparison_id NOT IN (SELECT comparison_id FROM withdrawn_comparisons);

-- What the judgments of one comparison say together of two responses under one criterion, as
-- `preferences` does for the verdict. Where each response was rated, the margin is the distance of
-- the ratings in points of their scale; equal says nothing, but weakens what others say.
CREATE VIEW criterion_preferences AS
WITH answered AS (
    SELECT
        c.id AS comparison_id, c.prompt_id, c.purpose, c.completion_ids,
        j.id AS judgment_id, j.seq, j.displayed_completion_ids, unnest(j.criteria) AS answer
    FROM usable_judgments j
    JOIN comparisons c ON c.id = j.comparison_id
    WHERE j.criteria IS NOT NULL
),
rated AS (
    SELECT * EXCLUDE (displayed_completion_ids, answer),
        answer."name" AS criterion,
        answer.scale AS scale,
        list_transform(
            completion_ids,
            lambda id: answer.ratings[list_position(displayed_completion_ids, id)]
        ) AS ratings,
        unnest(range(1, len(completion_ids))) AS one
    FROM answered
    WHERE answer.ratings IS NOT NULL
),
rated_pairs AS (
    SELECT *, unnest(range(one + 1, len(completion_ids) + 1)) AS other FROM rated
),
signed AS (
    SELECT
        comparison_id, prompt_id, purpose, judgment_id, seq,
        answer."name" AS criterion, answer.scale AS scale,
        completion_ids[1] AS one_completion_id,
        completion_ids[2] AS other_completion_id,
        CASE
            WHEN answer.preferred_completion_id = completion_ids[1] THEN answer.strength::INTEGER
            WHEN answer.preferred_completion_id = completion_ids[2] THEN -answer.strength::INTEGER
            ELSE 0
        END AS strength
    FROM answered
    WHERE answer.ratings IS NULL AND len(completion_ids) = 2
    UNION ALL
    SELECT
        comparison_id, prompt_id, purpose, judgment_id, seq, criterion, scale,
        completion_ids[one], completion_ids[other],
        ratings[one]::INTEGER - ratings[other]::INTEGER
    FROM rated_pairs
    WHERE ratings[one] IS NOT NULL AND ratings[other] IS NOT NULL
)
SELECT
    comparison_id,
    any_value(prompt_id) AS prompt_id,
    any_value(purpose) AS purpose,
    criterion,
    scale,
    CASE WHEN sum(strength) > 0 THEN one_completion_id
         ELSE other_completion_id END AS chosen_completion_id,
    CASE WHEN sum(strength) > 0 THEN other_completion_id
         ELSE one_completion_id END AS rejected_completion_id,
    abs(avg(strength)) AS margin,
    list(judgment_id ORDER BY seq) AS sources,
    max(seq) AS max_judgment_seq
FROM signed
GROUP BY comparison_id, criterion, scale, one_completion_id, other_completion_id
HAVING sum(strength) <> 0;

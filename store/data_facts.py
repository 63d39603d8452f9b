"""Facts of the data that a run would learn from: who judged, what wins, what repeats.

They say nothing of what is good or bad; that is decided where people are advised.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from store.db import Cursor, Store
from store.records import Message
from store.training_data import Kind, select

SAMPLE = 400


class Tally(NamedTuple):
    """So many of so many."""

    hits: int
    of: int

    @property
    def share(self) -> float:
        """0 to 1; 0 of nothing is 0."""
        return self.hits / self.of if self.of else 0.0


class Duel(NamedTuple):
    """Two policy versions in the same pairs, and how often the first one was chosen."""

    winner: str
    loser: str
    won: Tally


class SampledRow(NamedTuple):
    """A row's prompt and its completions: two of a pair, one of other kinds, none of a prompt."""

    prompt: list[Message]
    completions: tuple[str, ...]


class DataFacts(NamedTuple):
    """What the rows of one kind are like.

    `comparisons` are those that the rows come from, a single response that was rated being one too;
    each demonstration and each prompt is its own.
    `distinct_templates` are prompts that differ in more than numbers, case and punctuation;
    `leaked_prompts` are held-out prompts of which training has one that does not.
    `annotators` are people, by how many of the judgments behind the rows are theirs; `top_person`
    is the name of who gave most. `longer_won` and `liked` count rows, `first_won` judgments made on
    the page whose better response was shown first. `duel` is the most frequent one.
    `longest_chars` and `mean_chars` are of one sequence: a prompt with one of its completions.
    `sample` are some of the rows, the same ones each time.
    """

    rows: int
    comparisons: int
    distinct_prompts: int
    distinct_templates: int
    leaked_prompts: int
    people: int
    top_person: str | None
    from_top_person: Tally
    longer_won: Tally
    first_won: Tally
    liked: Tally
    duel: Duel | None
    mean_chars: float
    longest_chars: int
    sample: tuple[SampledRow, ...] = ()


# What two prompts have in common that differ in numbers, case, white space and punctuation alone.
_TEMPLATE = r"""
    lower(regexp_replace(
        array_to_string(list_transform({messages}, lambda m: m.role || ' ' || m.content), ' '),
        '[\s\pN\pP\pS]+', ' ', 'g'
    ))
"""
_CHARS = "list_sum(list_transform({messages}, lambda m: length(m.content)))"

# The columns that are asked for, whatever the kind: what a kind lacks is NULL.
_NARROW = {
    Kind.PREFERENCES: "comparison_id, {pair}, false AS is_tie, NULL::BOOLEAN AS label",
    Kind.COMPARISONS: "comparison_id, {pair}, is_tie, NULL::BOOLEAN AS label",
    Kind.DEMONSTRATIONS: "completion_id AS comparison_id, {single}, NULL::BOOLEAN AS label",
    Kind.RATINGS: "{judged} AS comparison_id, {single}, label",
    Kind.PROMPTS: "prompt_id AS comparison_id, {nothing}, NULL::BOOLEAN AS label",
}
_PAIR = """
    chosen_completion_id AS one_id, rejected_completion_id AS other_id,
    length(chosen[1].content) AS one, length(rejected[1].content) AS other,
    chosen_policy_version AS winner, rejected_policy_version AS loser
"""
_SINGLE = """
    completion_id AS one_id, NULL::VARCHAR AS other_id,
    length(completion[1].content) AS one, NULL::BIGINT AS other,
    NULL::VARCHAR AS winner, NULL::VARCHAR AS loser, false AS is_tie
"""
# A pair taken apart, or all responses of a ranking, were judged together.
_JUDGED = "(SELECT j.comparison_id FROM judgments j WHERE j.id = judgment_ids[1])"
_NOTHING = """
    NULL::VARCHAR AS one_id, NULL::VARCHAR AS other_id, 0::BIGINT AS one, NULL::BIGINT AS other,
    NULL::VARCHAR AS winner, NULL::VARCHAR AS loser, false AS is_tie
"""
_COUNTS = """
    SELECT
        count(*), count(DISTINCT comparison_id), count(DISTINCT prompt_id),
        count(*) FILTER (WHERE NOT is_tie AND one > other),
        count(*) FILTER (WHERE NOT is_tie AND one <> other),
        count(*) FILTER (WHERE label), count(label),
        coalesce(avg(chars + (one + coalesce(other, one)) / 2), 0),
        coalesce(max(chars + greatest(one, coalesce(other, 0))), 0)
    FROM told
"""
_DUEL = """
    SELECT
        if(sum(way) >= 0, least_version, most_version),
        if(sum(way) >= 0, most_version, least_version),
        count(*) FILTER (WHERE way = if(total >= 0, 1, -1)), count(*)
    FROM (
        SELECT *, sum(way) OVER (PARTITION BY least_version, most_version) AS total
        FROM (
            SELECT
                least(winner, loser) AS least_version, greatest(winner, loser) AS most_version,
                if(winner < loser, 1, -1) AS way
            FROM told WHERE winner <> loser AND NOT is_tie
        )
    )
    GROUP BY least_version, most_version
    ORDER BY count(*) DESC, least_version, most_version
    LIMIT 1
"""
_PEOPLE = """
    WITH behind AS (SELECT DISTINCT unnest(judgment_ids) AS id FROM told),
    given AS (
        SELECT
            j.annotator_id, coalesce(a.name, j.annotator_id) AS name,
            coalesce(a.role, '') AS role, count(*) AS times
        FROM behind
        JOIN judgments j USING (id)
        LEFT JOIN annotators a ON a.id = j.annotator_id
        GROUP BY ALL
    )
    SELECT
        count(*) FILTER (WHERE role <> 'source'),
        (arg_max(name, times) FILTER (WHERE role <> 'source')),
        coalesce(max(times) FILTER (WHERE role <> 'source'), 0),
        coalesce(sum(times), 0)::BIGINT
    FROM given
"""
_FIRST = """
    SELECT
        count(*) FILTER (WHERE j.displayed_completion_ids[1] = j.preferred_completion_id),
        count(*)
    FROM (SELECT DISTINCT unnest(judgment_ids) AS id FROM told)
    JOIN judgments j USING (id)
    WHERE j.verdict = 'preferred' AND j.source = 'page'
"""
_TEMPLATES = f"""
    WITH train AS (
        SELECT DISTINCT {_TEMPLATE.format(messages="p.messages")} AS template
        FROM prompts p WHERE p.id IN (SELECT prompt_id FROM told)
    ),
    held_out AS (
        SELECT {_TEMPLATE.format(messages="p.messages")} AS template
        FROM prompts p WHERE p.split = 'held_out'
    )
    SELECT
        (SELECT count(*) FROM train),
        (SELECT count(*) FROM held_out SEMI JOIN train USING (template))
"""
_SAMPLED = """
    SELECT p.messages, [text for text in [one.text, other.text] if text IS NOT NULL]
    FROM (FROM told ORDER BY hash(prompt_id), one_id, other_id LIMIT ?) t
    JOIN prompts p ON p.id = t.prompt_id
    LEFT JOIN completions one ON one.id = t.one_id
    LEFT JOIN completions other ON other.id = t.other_id
    ORDER BY hash(t.prompt_id), t.one_id, t.other_id
"""


def measure(store: Store, kind: Kind, *, only: str | None = None) -> DataFacts:
    """The facts of all rows of a kind that a run would be given now, or of those among them that
    say `only` of themselves in the column `kind`."""
    with store.read() as cursor:
        cursor.execute(f"CREATE OR REPLACE TEMP TABLE told AS {_narrow(kind, only)}")
        counts = _one(cursor, _COUNTS)
        people, name, most, judgments = _one(cursor, _PEOPLE)
        templates, leaked = _one(cursor, _TEMPLATES)
        first = _one(cursor, _FIRST)
        duels = cursor.execute(_DUEL).fetchall()
        sample = cursor.execute(_SAMPLED, [SAMPLE]).fetchall()
    rows, comparisons, prompts, longer, decided, liked, labelled, mean, longest = counts
    return DataFacts(
        rows=rows,
        comparisons=comparisons,
        distinct_prompts=prompts,
        distinct_templates=templates,
        leaked_prompts=leaked,
        people=people,
        top_person=name,
        from_top_person=Tally(most, judgments),
        longer_won=Tally(longer, decided),
        first_won=Tally(*first),
        liked=Tally(liked, labelled),
        duel=Duel(d[0], d[1], Tally(d[2], d[3])) if (d := next(iter(duels), None)) else None,
        mean_chars=float(mean),
        longest_chars=int(longest),
        sample=tuple(SampledRow(prompt, tuple(texts)) for prompt, texts in sample),
    )


def version(store: Store) -> tuple[int, ...]:
    """Changes whenever the facts may have: with a judgment, a lead's decision or an import."""
    with store.read() as cursor:
        return _one(
            cursor,
            "SELECT (SELECT coalesce(max(seq), 0) FROM judgments),"
            " (SELECT coalesce(max(seq), 0) FROM reviews), (SELECT count(*) FROM prompts)",
        )


def _narrow(kind: Kind, only: str | None) -> str:
    columns = _NARROW[kind].format(pair=_PAIR, single=_SINGLE, nothing=_NOTHING, judged=_JUDGED)
    chars = _CHARS.format(messages="prompt")
    kept = f" WHERE kind = '{only}'" if only else ""
    return (
        f"SELECT prompt_id, judgment_ids, {chars}::BIGINT AS chars, {columns} "
        f"FROM ({select(kind)}){kept}"
    )


def _one(cursor: Cursor, query: str) -> tuple[Any, ...]:
    row = cursor.execute(query).fetchone()
    assert row is not None
    return row

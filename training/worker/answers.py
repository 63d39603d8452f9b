"""Did the policy get better? What is measured on the old and the new one's answers.

Nothing here says whether people prefer the new policy: only a blind comparison does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, median
from typing import Any

from training import artefacts
from training.events import EventKind
from training.generation import FinishReason
from training.worker import asking, evaluate, following, forgetting, win_rates
from training.worker.asking import Answers, Asking, responses
from training.worker.evaluate import Scored
from training.worker.job import Job, StopRequest
from training.worker.models import Trainee
from training.worker.scoring import Score

SIDE_BY_SIDE = 12


@dataclass(frozen=True)
class GenerationReport:
    """Responses of the old and the new policy to the same prompts, with the same seeds.

    Lengths are in tokens. `kl_k1` and `kl_k3` estimate KL(new || old) per response, in nats, on the
    new policy's own samples. `ended_*` is the share of responses that the policy ended by itself;
    `tokens_per_s_*` the speed at which a batch was written, `latency_s_*` how long a response takes
    that is written alone, the median of a few. `samples` are the first few prompts
    with both responses.
    """

    prompts: int
    length_before: float
    length_after: float
    ended_before: float
    ended_after: float
    tokens_per_s_before: float
    tokens_per_s_after: float
    latency_s_before: float
    latency_s_after: float
    kl_k1: float
    kl_k3: float
    samples: Sequence[Mapping[str, Any]]


def answer_held_out(job: Job, options: Asking, trainee: Trainee) -> dict[str, Any]:
    """Both policies on the run's test prompts: told as events, and for the report.

    A reward model that the run knows is loaded to score them.
    """
    answered = asking.ask_held_out(job, options, trainee)
    if answered is None:
        return {"generations": None, **_forgotten(job, trainee)}
    return tell_answers(job, trainee, answered)


def score_held_out(job: Job, options: Asking, trainee: Trainee, score: Score) -> dict[str, Any]:
    """The same with the mean scores, by the reward model that the run has learned from."""
    answered = asking.ask_held_out(job, options, trainee)
    if answered is None:
        return {"reward": None, "generations": None, **_forgotten(job, trainee)}
    scores = win_rates.score_both(score, answered)
    return {
        "reward": {"before": fmean(scores.before), "after": fmean(scores.after)},
        **tell_answers(job, trainee, answered, score),
    }


def tell_answers(
    job: Job, trainee: Trainee, answers: Answers, score: Score | None = None
) -> dict[str, Any]:
    """What has changed: samples told as events, all of it for the report.

    `score` is that of a reward model in memory; without it the one that the run knows is loaded.
    """
    compared = compare_answers(trainee, answers, job.stop)
    for sample in compared.samples:
        job.events.write(EventKind.SAMPLE, **sample)
    before, after = responses(answers.before), responses(answers.after)
    followed = following.compare(job, answers.prompts, before, after)
    won = win_rates.measure(job, trainee, answers, score)
    return {
        "generations": asdict(compared),
        "artefacts": [asdict(change) for change in artefacts.compare(before, after)],
        **{name: found and found._asdict() for name, found in followed._asdict().items()},
        **won,
        **_forgotten(job, trainee, answers.rows(answers.before)),
    }


def _forgotten(job: Job, trainee: Trainee, own: Sequence[Scored] = ()) -> dict[str, Any]:
    """For the report; general text is measured on whether or not anything was answered."""
    found = forgetting.measure(job, trainee, own)
    return {"forgetting": found._asdict() if found else None}


def compare_answers(trainee: Trainee, answers: Answers, stop: StopRequest) -> GenerationReport:
    """Lengths, ends, speed and distance of both policies, and responses side by side."""
    before, after = answers.before, answers.after
    k1, k3 = evaluate.mean_kl(trainee, answers.rows(after), stop)
    samples = [
        {"messages": prompt["messages"], "before": old.text, "after": new.text}
        for prompt, old, new in zip(answers.prompts, before, after, strict=True)
    ]
    return GenerationReport(
        prompts=len(answers.prompts),
        length_before=fmean(o.token_count for o in before),
        length_after=fmean(o.token_count for o in after),
        ended_before=fmean(o.finish_reason is FinishReason.STOP for o in before),
        ended_after=fmean(o.finish_reason is FinishReason.STOP for o in after),
        tokens_per_s_before=sum(o.token_count for o in before) / answers.before_s,
        tokens_per_s_after=sum(o.token_count for o in after) / answers.after_s,
        latency_s_before=median(answers.before_alone_s),
        latency_s_after=median(answers.after_alone_s),
        kl_k1=k1,
        kl_k3=k3,
        samples=samples[:SIDE_BY_SIDE],
    )

"""The losses of DPO's family and of KTO, as our runs set TRL's trainers up, against the papers.

A policy that says what it is told stands where the trained one would; all else is a run's own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from tests.models import build_model
from tests.rundirs import losses, make_run_dir, preference_rows, rated_rows, run_here
from training.events import EventWriter
from training.methods import method_named
from training.methods.dpo import DPOOptions, LossType
from training.methods.kto import KTOOptions
from training.rundir import Outcome
from training.worker import data, dpo, kto, models
from training.worker.encoding import IGNORED
from training.worker.job import Job, StopRequest

LN_2 = math.log(2)
Row = tuple[int, ...]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_model(tmp_path_factory.mktemp("models") / "tiny")


class Scripted:
    """A policy that gives each row of tokens the log-probability that it is told, in nats.

    It is spread evenly over the completion's tokens.
    """

    training = True

    def __init__(self, told: Mapping[Row, Tensor]) -> None:
        self._told = told

    def __call__(
        self, *, input_ids: Tensor, attention_mask: Tensor, labels: Tensor, **_: Any
    ) -> SimpleNamespace:
        is_completion = (labels != IGNORED)[:, 1:].float()
        rows = [
            tuple(row[keep.bool()].tolist())
            for row, keep in zip(input_ids, attention_mask, strict=True)
        ]
        totals = torch.stack([self._told[row] for row in rows])
        log_probs = is_completion * (totals / is_completion.sum(dim=1))[:, None]
        nothing = torch.zeros_like(is_completion)
        return SimpleNamespace(
            log_probs=log_probs, entropy=nothing, mean_logits=nothing, is_top1=nothing.bool()
        )


class Prepared(NamedTuple):
    """What a run's recipe has at hand when it builds its trainer."""

    job: Job
    options: Any
    loaded: models.Loaded
    split: data.Split


def prepare(folder: Path, model: Path, method: str, **options: Any) -> Prepared:
    rows = {"dpo": preference_rows, "kto": rated_rows}[method](2)
    run_dir = make_run_dir(folder, model, method=method, rows=rows, **options)
    job = Job(run_dir.read_spec(), run_dir, EventWriter(run_dir.events_path), StopRequest())
    chosen = job.spec.options
    assert isinstance(chosen, DPOOptions | KTOOptions)
    read = data.read_rows(run_dir.path / job.spec.data, method_named(method).learns_from)
    return Prepared(job, chosen, models.load(job.spec, chosen), data.Split(read, []))


# DPO's family


class Pair(NamedTuple):
    """A batch of one pair as a DPO run lays it out, and its loss by what a policy says of it."""

    trainer: Any
    batch: dict[str, Tensor]
    chosen: Row
    rejected: Row

    def loss(self, chosen: Tensor, rejected: Tensor) -> Tensor:
        """From log-probabilities of the two responses, scalars in nats."""
        policy = Scripted({self.chosen: chosen, self.rejected: rejected})
        loss: Tensor = self.trainer.compute_loss(policy, dict(self.batch))
        return loss


def pair(folder: Path, model: Path, *, tokens: tuple[int, int] = (5, 4), **options: Any) -> Pair:
    """Both responses have -11 from the reference; `tokens` are their lengths."""
    given = prepare(folder, model, "dpo", **options)
    known = dpo.ReferenceLogProbs.of(None)
    trainer = dpo._build_trainer(*given, known)
    prompt = [7, 8]
    chosen, rejected = ([first] * count for first, count in zip((20, 30), tokens, strict=True))
    row = {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected}
    batch = trainer.data_collator([row])
    known.remember(known.keys(batch), torch.tensor([-11.0]), torch.tensor([-11.0]))
    return Pair(trainer, batch, (*prompt, *chosen), (*prompt, *rejected))


# The policy says -10 and -12: log-ratios of +1 and -1, their difference is 2, beta is .1.
FORMULAS: list[tuple[LossType, dict[str, Any], float]] = [
    (LossType.SIGMOID, {}, 0.598139),
    (LossType.ROBUST, {"label_smoothing": 0.1}, 0.573139),
    # (1/5 + 1/4 - 5) ** 2: TRL, as IPO's authors do, takes means over 5 and 4 tokens.
    (LossType.IPO, {}, 20.7025),
    (LossType.HINGE, {}, 0.8),
    # -log sigmoid(.1 * (1/5 + 1/4))
    (LossType.SIGMOID_NORM, {}, 0.670900),
    # (1 - sigmoid(.1)) + sigmoid(-.1)
    (LossType.APO_ZERO, {}, 0.950042),
]


def test_every_loss_on_offer_has_its_number_here() -> None:
    assert {loss for loss, *_ in FORMULAS} == set(LossType)


@pytest.mark.parametrize(("loss_type", "more", "loss"), FORMULAS)
def test_a_loss_of_the_family_is_its_paper_s(
    tmp_path: Path, model: Path, loss_type: LossType, more: dict[str, Any], loss: float
) -> None:
    given = pair(tmp_path / "run", model, loss_type=loss_type.value, beta=0.1, **more)
    found = given.loss(torch.tensor(-10.0), torch.tensor(-12.0))
    assert found.item() == pytest.approx(loss, abs=2e-6)


def test_ipo_of_responses_of_one_token_is_the_paper_s_square(tmp_path: Path, model: Path) -> None:
    given = pair(tmp_path / "run", model, tokens=(1, 1), loss_type="ipo", beta=0.1)
    assert given.loss(torch.tensor(-10.0), torch.tensor(-12.0)).item() == pytest.approx(9.0)


def test_the_likelihood_of_the_chosen_response_is_added_by_its_weight(
    tmp_path: Path, model: Path
) -> None:
    given = pair(tmp_path / "run", model, beta=0.1, sft_weight=0.5)
    # 10 nats over 5 tokens, by one half
    expected = 0.598139 + 0.5 * 2
    found = given.loss(torch.tensor(-10.0), torch.tensor(-12.0))
    assert found.item() == pytest.approx(expected, abs=1e-6)


def test_dpo_draws_the_chosen_response_up_and_the_rejected_one_down_alike(
    tmp_path: Path, model: Path
) -> None:
    given = pair(tmp_path / "run", model, beta=0.1)
    chosen = torch.tensor(-10.0, requires_grad=True)
    rejected = torch.tensor(-12.0, requires_grad=True)
    given.loss(chosen, rejected).backward()  # type: ignore[no-untyped-call]
    assert chosen.grad is not None
    assert rejected.grad is not None
    assert chosen.grad.item() == pytest.approx(-0.045017, abs=1e-6)
    assert rejected.grad.item() == pytest.approx(0.045017, abs=1e-6)


def test_a_policy_that_says_what_the_reference_says_has_a_loss_of_ln_2(
    tmp_path: Path, model: Path
) -> None:
    given = pair(tmp_path / "run", model, beta=0.1)
    assert given.loss(torch.tensor(-11.0), torch.tensor(-11.0)).item() == pytest.approx(LN_2)


# KTO


FIRST, SECOND = ((7, 8), (20, 21, 22)), ((9,), (30, 31))
ROWS = (FIRST[0] + FIRST[1], SECOND[0] + SECOND[1])
MISMATCHED = (FIRST[0] + SECOND[1], SECOND[0] + FIRST[1])


class Thumbs(NamedTuple):
    """A batch of two rows as a KTO run lays it out, and its loss by what a policy says of it."""

    trainer: Any
    batch: dict[str, Any]

    def loss(self, ahead: Tensor, drifts: tuple[Tensor, Tensor]) -> Tensor:
        """From log-ratios to the reference, in nats: both rows', and each mismatched pair's."""
        ratios: dict[Row, Tensor] = dict.fromkeys(ROWS, ahead)
        ratios |= zip(MISMATCHED, drifts, strict=True)
        reference = {row: torch.tensor(-10.0) for row in ratios}
        self.trainer.ref_model = Scripted(reference)
        policy = Scripted({row: reference[row] + ratio for row, ratio in ratios.items()})
        loss: Tensor = self.trainer.compute_loss(policy, self.batch)
        return loss


def thumbs(folder: Path, model: Path, labels: tuple[bool, bool], **options: Any) -> Thumbs:
    # With full tuning the reference is a model of its own, and one that says what it is told.
    given = prepare(folder, model, "kto", tuning="full", **options)
    trainer = kto._build_trainer(*given)
    rows = [
        {"prompt_ids": [*p], "completion_ids": [*c], "KL_completion_ids": [*other], "label": label}
        for (p, c), (_, other), label in zip((FIRST, SECOND), (SECOND, FIRST), labels, strict=True)
    ]
    return Thumbs(trainer, trainer.data_collator(rows))


AHEAD, DRIFTS = torch.tensor(2.0), (torch.tensor(1.5), torch.tensor(-0.5))  # z0 is their mean, .5


@pytest.mark.parametrize(("label", "loss"), [(True, 0.462570), (False, 0.537430)])
def test_a_thumb_s_loss_is_measured_from_the_reference_point(
    tmp_path: Path, model: Path, label: bool, loss: float
) -> None:
    given = thumbs(tmp_path / "run", model, (label, label), beta=0.1)
    assert given.loss(AHEAD, DRIFTS).item() == pytest.approx(loss, abs=1e-6)


def test_liked_and_disliked_responses_count_by_their_weights(tmp_path: Path, model: Path) -> None:
    weights = {"desirable_weight": 2.0, "undesirable_weight": 0.5}
    given = thumbs(tmp_path / "run", model, (True, False), beta=0.1, **weights)
    expected = (2 * 0.462570 + 0.5 * 0.537430) / 2
    assert given.loss(AHEAD, DRIFTS).item() == pytest.approx(expected, abs=1e-6)


def test_the_reference_point_is_never_below_nothing(tmp_path: Path, model: Path) -> None:
    given = thumbs(tmp_path / "run", model, (True, True), beta=0.1)
    # 1 - sigmoid(.2)
    found = given.loss(AHEAD, (torch.tensor(-3.0), torch.tensor(1.0)))
    assert found.item() == pytest.approx(0.450166, abs=1e-6)


def test_no_gradient_flows_through_the_reference_point(tmp_path: Path, model: Path) -> None:
    given = thumbs(tmp_path / "run", model, (True, True), beta=0.1)
    # One weight moves rows and mismatched pairs alike, as a model's weights do; the two would
    # cancel out.
    weight = torch.tensor(2.0, requires_grad=True)
    given.loss(weight, (weight, weight)).backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None
    assert weight.grad.item() == pytest.approx(-0.1 * 0.25, abs=1e-6)


def test_a_kto_run_begins_at_one_half(tmp_path: Path, model: Path) -> None:
    run_dir = make_run_dir(tmp_path / "run", model, method="kto", rows=rated_rows(12), epochs=1)
    result = run_here(run_dir)
    assert result.state is Outcome.SUCCEEDED, result.failure
    assert losses(run_dir)[1] == pytest.approx(0.5, abs=1e-6)

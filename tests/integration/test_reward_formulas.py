"""The reward model's arithmetic, against numbers worked out by hand or given with the papers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.models import END_OF_TEXT, build_model
from tests.rundirs import comparison_rows, make_run_dir
from training import loading
from training.events import EventWriter
from training.methods import LearnsFrom
from training.methods.reward import Pooling, RewardOptions
from training.worker import data, reward, scoring
from training.worker.encoding import Encoder
from training.worker.job import Job, StopRequest

LN_2 = math.log(2)
THANKS = [{"role": "assistant", "content": "Thank you for waiting."}]
QUESTION = [{"role": "user", "content": "Where is it?"}]


# The loss of a pair


def loss_of_pair(
    difference: float, *, margin: float = 0.0, is_tie: bool = False, **o: Any
) -> float:
    given = torch.tensor([difference]), torch.tensor([margin]), torch.tensor([is_tie])
    return reward.pair_losses(*given, options=RewardOptions(**o)).item()


@pytest.mark.parametrize(("better", "worse", "loss"), [(1.0, 0.0, 0.313262), (0.7, 0.7, LN_2)])
def test_the_loss_of_bradley_and_terry(better: float, worse: float, loss: float) -> None:
    assert loss_of_pair(better - worse) == pytest.approx(loss, abs=1e-6)


@pytest.mark.parametrize(("margin", "loss"), [(1.0, LN_2), (1 / 3, 0.414370), (0.0, 0.313262)])
def test_a_margin_is_taken_from_the_difference(margin: float, loss: float) -> None:
    assert loss_of_pair(1.0, margin=margin, margin_weight=1.0) == pytest.approx(loss, abs=1e-6)


def test_a_margin_counts_by_its_weight() -> None:
    assert loss_of_pair(1.0, margin=2.0, margin_weight=0.5) == pytest.approx(LN_2, abs=1e-6)
    assert loss_of_pair(1.0, margin=2.0, margin_weight=0.0) == pytest.approx(0.313262, abs=1e-6)


@pytest.mark.parametrize(
    ("difference", "loss"),
    # Half of -log sigmoid(1) = .313262 and half of -log sigmoid(-1) = 1.313262.
    [(0.0, LN_2), (1.0, 0.813262), (-1.0, 0.813262)],
)
def test_a_tie_is_as_likely_either_way(difference: float, loss: float) -> None:
    assert loss_of_pair(difference, is_tie=True, tie_weight=1.0) == pytest.approx(loss, abs=1e-6)


def test_a_tie_counts_by_its_weight_and_has_no_margin() -> None:
    loss = loss_of_pair(1.0, margin=3.0, is_tie=True, tie_weight=0.5, margin_weight=1.0)
    assert loss == pytest.approx(0.406631, abs=1e-6)
    assert loss_of_pair(1.0, is_tie=True, tie_weight=0.0) == 0


@pytest.mark.parametrize("difference", [2.0, -2.0])
def test_a_tie_draws_both_scores_together(difference: float) -> None:
    apart = torch.tensor([difference], requires_grad=True)
    options = RewardOptions(tie_weight=1.0)
    reward.pair_losses(apart, torch.zeros(1), torch.tensor([True]), options=options).backward()  # type: ignore[no-untyped-call]
    # sigmoid(d) - 1/2
    assert apart.grad is not None
    assert apart.grad.item() == pytest.approx(math.copysign(0.380797, difference), abs=1e-6)


# Which tokens a score is read at


def test_the_mean_weighs_the_completion_s_tokens_alike() -> None:
    mask = torch.tensor([[0.0, 1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0, 0.0]])
    weights = scoring.pooling_weights(mask, Pooling.MEAN)
    assert weights.tolist() == [[0, 0.25, 0.25, 0.25, 0.25], [0, 0, 0.5, 0.5, 0]]


def test_the_last_token_is_the_completion_s_wherever_the_padding_is() -> None:
    right, left = [0.0, 1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0, 1.0]
    weights = scoring.pooling_weights(torch.tensor([right, left]), Pooling.LAST)
    assert weights.tolist() == [[0, 0, 1, 0, 0], [0, 0, 0, 0, 1]]


# A batch of comparisons


class Looked(nn.Module):
    """A head whose hidden states are token ids."""

    def __init__(self, scores: Sequence[float]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(scores))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.weight[ids.long()][..., None]


class Scripted(nn.Module):
    """A classifier that says of each token the score that it is told, and counts what it reads."""

    def __init__(self, scores: Sequence[float]) -> None:
        super().__init__()
        self.score = Looked(scores)
        self.calls, self.rows = 0, 0

    def forward(self, input_ids: Tensor, **_: Any) -> SimpleNamespace:
        self.calls += 1
        self.rows += len(input_ids)
        return SimpleNamespace(logits=self.score(input_ids)[:, -1])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_model(tmp_path_factory.mktemp("models") / "tiny")


def trainer_of(folder: Path, model: Path, **options: Any) -> Any:
    """The trainer that a reward run would have, over all of its rows."""
    run_dir = make_run_dir(folder, model, method="reward", rows=comparison_rows(6), **options)
    job = Job(run_dir.read_spec(), run_dir, EventWriter(run_dir.events_path), StopRequest())
    chosen = job.spec.options
    assert isinstance(chosen, RewardOptions)
    loaded = reward._load(job, chosen)
    rows = data.read_rows(run_dir.path / job.spec.data, LearnsFrom.COMPARISONS)
    encoder = Encoder(loaded.tokenizer, loaded.model)
    return reward._build_trainer(job, chosen, loaded, encoder, data.Split(rows, []))


def ranking(first: int, count: int) -> Mapping[str, Any]:
    """All pairs of `count` responses of one token each, the better ones first."""
    pairs = [[i, j] for i in range(count) for j in range(i + 1, count)]
    completions = [[first + place] for place in range(count)]
    return reward.Group(
        [[0]] * count, completions, [2] * count, pairs, [0.0] * len(pairs), [False] * len(pairs)
    )._asdict()


# Token 0 is every prompt; 1 to 3 are a ranking of three, 4 to 7 one of four, 8 and 9 a pair.
SCORES = [9.0, 2.0, 1.0, 0.0, 1.5, 0.2, -0.3, -1.0, 2.0, 1.0]
OF_THREE, OF_FOUR, PAIR = ranking(1, 3), ranking(4, 4), ranking(8, 2)


@pytest.mark.parametrize(
    ("groups", "loss"),
    [
        ([OF_THREE], 0.251150),
        ([OF_FOUR], 0.268904),
        ([PAIR], 0.313262),
        # Each comparison weighs 1, though they have 3, 6 and 1 pairs.
        ([OF_THREE, OF_FOUR], (0.251150 + 0.268904) / 2),
        ([PAIR, OF_FOUR, OF_THREE], (0.313262 + 0.268904 + 0.251150) / 3),
    ],
)
def test_the_loss_is_the_mean_over_comparisons_of_the_mean_over_their_pairs(
    tmp_path: Path, model: Path, groups: list[Mapping[str, Any]], loss: float
) -> None:
    trainer = trainer_of(tmp_path / "run", model, centering=0.0)
    found = trainer.compute_loss(Scripted(SCORES), trainer.data_collator(groups))
    assert found.item() == pytest.approx(loss, abs=1e-6)


def test_each_response_of_a_ranking_is_read_once(tmp_path: Path, model: Path) -> None:
    trainer, scripted = trainer_of(tmp_path / "run", model), Scripted(SCORES)
    trainer.compute_loss(scripted, trainer.data_collator([OF_FOUR]))
    assert (scripted.calls, scripted.rows, len(OF_FOUR["pairs"])) == (1, 4, 6)


def test_a_snapshot_s_ranking_of_three_becomes_three_responses_and_three_pairs(
    tmp_path: Path, model: Path
) -> None:
    groups = list(trainer_of(tmp_path / "run", model).train_dataset)
    assert len(groups) == 6
    for group in groups:
        assert len(group["completions"]) == len(group["prompts"]) == len(group["pairs"]) == 3


def test_comparisons_of_a_batch_weigh_one_each_and_refer_to_their_own_responses() -> None:
    batch = reward.collate([OF_THREE, PAIR])
    assert batch["weights"].tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 1])
    assert batch["pairs"].tolist() == [[0, 1], [0, 2], [1, 2], [3, 4]]


def test_centring_adds_the_square_of_a_pair_s_scores(tmp_path: Path, model: Path) -> None:
    trainer = trainer_of(tmp_path / "run", model, centering=0.01)
    found = trainer.compute_loss(Scripted(SCORES), trainer.data_collator([PAIR]))
    assert found.item() == pytest.approx(0.313262 + 0.09, abs=1e-6)


def test_margins_and_ties_of_a_comparison_reach_its_loss(tmp_path: Path, model: Path) -> None:
    trainer = trainer_of(tmp_path / "run", model, centering=0.0, margin_weight=1.0, tie_weight=0.5)
    group = {**OF_THREE, "margins": [1.0, 2.0, 0.0], "ties": [False, False, True]}
    found = trainer.compute_loss(Scripted(SCORES), trainer.data_collator([group]))
    assert found.item() == pytest.approx((LN_2 + LN_2 + 0.406631) / 3, abs=1e-6)


# Padding with the token that ends a text


@pytest.fixture(scope="module")
def shared_pad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model without a template, whose tokenizer pads with what ends a response."""
    folder = tmp_path_factory.mktemp("models") / "shared"
    return build_model(folder, chat_template=False, pad_is_eos=True)


def said_of_each_token(classifier: Any, prompt: list[int], completion: list[int]) -> list[float]:
    """What the head says of the completion's tokens, without any padding."""
    with torch.no_grad():
        hidden = classifier.model(input_ids=torch.tensor([[*prompt, *completion]]))[0]
        said: list[float] = classifier.score(hidden)[0, len(prompt) :, 0].tolist()
    return said


def pooled(said: Sequence[float], pooling: Pooling) -> float:
    return said[-1] if pooling is Pooling.LAST else sum(said) / len(said)


@pytest.mark.parametrize("pooling", Pooling)
def test_a_padding_token_that_ends_a_response_has_its_say(
    shared_pad: Path, pooling: Pooling
) -> None:
    classifier = scoring.load_classifier(str(shared_pad), seed=0)
    tokenizer = loading.load_tokenizer(shared_pad)
    prompt, ended, _ = Encoder(tokenizer, classifier).encode(QUESTION, THANKS)
    assert ended[-1] == tokenizer.pad_token_id == tokenizer.convert_tokens_to_ids(END_OF_TEXT)

    longest = [*ended, *ended]
    found = scoring.score(classifier, [prompt] * 3, [ended, ended[:-1], longest], pooling)

    said = said_of_each_token(classifier, prompt, ended)
    assert found[0] == pytest.approx(pooled(said, pooling), abs=1e-5)
    assert found[1] == pytest.approx(pooled(said[:-1], pooling), abs=1e-5)
    assert abs(found[0] - found[1]) > 1e-3


@pytest.mark.parametrize("pooling", Pooling)
def test_training_tells_a_response_that_ended_from_one_that_did_not(
    tmp_path: Path, shared_pad: Path, pooling: Pooling
) -> None:
    trainer = trainer_of(tmp_path / "run", shared_pad, centering=0.0, pooling=pooling.value)
    group = trainer.train_dataset[0]
    prompt, ended = group["prompts"][0], group["completions"][0]
    assert ended[-1] == trainer.processing_class.pad_token_id
    both = reward.Group([prompt] * 2, [ended, ended[:-1]], [1, 1], [[0, 1]], [0.0], [False])

    loss = trainer.compute_loss(trainer.model, trainer.data_collator([both._asdict()])).item()

    said = said_of_each_token(trainer.model.base_model.model, prompt, ended)
    apart = pooled(said, pooling) - pooled(said[:-1], pooling)
    assert abs(apart) > 1e-3
    assert loss == pytest.approx(math.log1p(math.exp(-apart)), abs=1e-5)

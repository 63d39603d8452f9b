"""Online DPO: pairs of the policy's own fresh responses, judged by the reward model, in rounds.

    python -m training.worker RUN_DIR        # spec.json says method "online_dpo"

Each round draws responses from the policy as it has become, prefers the best-scored to the
worst-scored of each prompt, and goes on training with them. That feedback is best given to what the
policy writes now: Guo et al. 2024, "Direct Language Model Alignment from Online AI Feedback"; that
a few large rounds, the best against the worst of n, and a reference that stays where the run began
suffice: Xiong et al. 2024, "Iterative Preference Learning from Human Feedback".

All rounds are one training, with one optimiser and one schedule. It is not the loop with people:
that one is a run of DPO for each of its iterations.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from itertools import groupby
from statistics import fmean
from typing import Any, NamedTuple

from datasets import Dataset
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import DPOConfig

from training.events import EventKind
from training.methods.online_dpo import OnlineDPOOptions
from training.worker import data, dpo, fitting, models, prompts, rewards, watch
from training.worker.completions import CompletionLog, Drawn
from training.worker.dpo import ReferenceLogProbs, ReferenceOnceTrainer
from training.worker.drawing import Drawing, by_place
from training.worker.failures import BadData
from training.worker.job import Job
from training.worker.models import Loaded
from training.worker.prompts import Prompt

# A pair in TRL's columns: token ids of the prompt and of either response.
PairRow = Mapping[str, list[int]]


def train(job: Job) -> Mapping[str, Any]:
    """Train, measure, and leave the adapter in `adapter.partial`; returns the result's report.

    Raises `WorkerError` for what a person can act on, `Cancelled` when asked to stop.
    """
    options = job.spec.options
    assert isinstance(options, OnlineDPOOptions)
    job.enter_phase("loading")
    loaded = models.load(job.spec, options)
    fitting.warn_of_other_rank(job, options, loaded)
    rewarder = rewards.load(job, loaded, missing_eos_penalty=options.missing_eos_penalty)

    job.enter_phase("preparing")
    known = ReferenceLogProbs.of(job.run_dir.newest_checkpoint())
    trainer = _build_trainer(job, options, loaded, known)
    trainee = loaded.trainee(trainer.model)
    asked = _choose_prompts(job, options, loaded, fitting.longest_row(trainer.model, options))
    job.note_trained_rows([prompt.row.number for prompt in asked.train])

    job.enter_phase("generating")
    drawing = Drawing(job, loaded.tokenizer, rewarder, options.n, options.max_new_tokens)
    rounds = Rounds(job, options, asked, drawing)
    held_out = rounds.begin(trainee.model)
    trainer.follow(rounds, held_out)
    every = options.watch_steps
    if looking := watch.looking(job, trainee, rewarder, every=every, asking=options):
        trainer.add_callback(looking)
    fitting.schedule(trainer, options, steps=options.rounds * rounds.steps)
    fitting.warn_of_endless(job, loaded, [row["chosen_ids"] for row in rounds.rows])
    counts = {
        "train": len(asked.train),
        "held_out": len(held_out),
        "too_long": asked.too_long,
        "seen": rounds.total_rows,
    }
    epochs = options.rounds * options.epochs
    fitted = fitting.fit(job, trainer, trainee, counts, epochs=epochs, on_checkpoint=known.save)

    job.enter_phase("evaluating")
    ranked = dpo.rank_held_out(job, options, trainee, trainer.eval_dataset, fitted.kept_step)
    return {
        **fitted.report(),
        "online_dpo": rounds.told(),
        "judged_pairs": asdict(ranked) if ranked else None,
        **rewards.answer_held_out(job, options, trainee, rewarder),
    }


class Asked(NamedTuple):
    """Prompts to learn from, of other conversations to measure on, and how many are too long."""

    train: list[Prompt]
    held_out: list[Prompt]
    too_long: int


class Rounds:
    """Draws each round's responses in its turn, and lays its pairs out in batches.

    A round has the same number of steps whatever it draws, so that the schedule is known from the
    beginning: where prompts give no pair, the others' are seen more often.
    """

    def __init__(self, job: Job, options: OnlineDPOOptions, asked: Asked, drawing: Drawing) -> None:
        self._job = job
        self._options = options
        self._asked = asked
        self._drawing = drawing
        self._prompts = min(options.prompts, len(asked.train))
        self._batch = options.batch_size * options.gradient_accumulation
        self._round = -1
        self.rows: list[PairRow] = []
        self.steps = math.ceil(self._prompts * options.epochs / self._batch)

    @property
    def total_rows(self) -> int:
        """Rows that all rounds train on."""
        return self._options.rounds * self.steps * self._batch

    def begin(self, model: Any) -> list[PairRow]:
        """Have the first round's rows in hand; returns pairs to measure on.

        Raises `BadData` where no prompt gives a pair, `Cancelled`.
        """
        held_out = by_place(self._asked.held_out)
        drawn = self._drawing.draw(model, {**self._of(0), **held_out})
        self._take(0, [each for each in drawn if each.row not in held_out])
        return [
            pair_row(held_out[each.row], each)
            for each in drawn
            if each.row in held_out and each.pair
        ]

    def reach(self, step: int, model: Any) -> None:
        """Have the rows of the round that `step` steps have led to, drawn by the policy as it is.

        Raises `BadData`, `Cancelled`.
        """
        round = step // self.steps
        if round == self._round:
            return
        self._job.enter_phase("generating")
        was_training = model.training
        # Neither dropout nor gradient checkpointing has a place in generation.
        model.eval()
        try:
            drawn = self._drawing.draw(model, self._of(round), round=round)
        finally:
            model.train(was_training)
        self._take(round, drawn)
        self._job.enter_phase("training")

    def row(self, place: int) -> PairRow:
        """The row at a place among those of all rounds; of the round in hand."""
        return self.rows[place - self._round * self.steps * self._batch]

    def told(self) -> list[dict[str, float]]:
        """What each round has drawn, also before this process, for the report."""
        trained = {prompt.row.number for prompt in self._asked.train}
        with closing(CompletionLog(self._job.run_dir.completions_path)) as log:
            drawn = [each for each in log.drawn if each.row in trained]
        return [
            {"round": round + 1, **summary(list(some))}
            for round, some in groupby(drawn, key=lambda each: each.round)
        ]

    def _of(self, round: int) -> dict[int, Prompt]:
        """The prompts of a round; as few as can be are of another one as well."""
        pool, first = self._asked.train, round * self._prompts
        return by_place([pool[(first + at) % len(pool)] for at in range(self._prompts)])

    def _take(self, round: int, drawn: Sequence[Drawn]) -> None:
        prompts = self._of(round)
        pairs = [pair_row(prompts[each.row], each) for each in drawn if each.pair]
        if not pairs:
            raise BadData(
                "In round {round} none of {prompts} prompts gave a pair: all responses to a prompt "
                "are the same or score the same, or none came to an end. Draw more of them, allow "
                "longer ones, or take fewer rounds.",
                round=round + 1,
                prompts=len(drawn),
            )
        if without := len(drawn) - len(pairs):
            self._job.warn(
                "In round {round}, {without} of {prompts} prompts gave no pair: all responses are "
                "the same or score the same, or none came to an end. Pairs of the others are seen "
                "more often.",
                round=round + 1,
                without=without,
                prompts=len(drawn),
            )
        self._round = round
        self.rows = _laid_out(
            pairs, self.steps * self._batch, batch=self._batch, seed=self._job.spec.seed + round
        )
        told = summary(drawn)
        self._job.events.write(
            EventKind.METRICS,
            step=round * self.steps,
            score=told["score"],
            score_chosen=told["chosen"],
            score_rejected=told["rejected"],
        )


def pair_row(prompt: Prompt, drawn: Drawn) -> PairRow:
    """What a prompt's best and worst response are to TRL's trainer."""
    assert drawn.pair is not None
    return {
        "prompt_ids": prompt.ids,
        "chosen_ids": drawn.completions[drawn.pair.chosen],
        "rejected_ids": drawn.completions[drawn.pair.rejected],
    }


def summary(drawn: Sequence[Drawn]) -> dict[str, float]:
    """Prompts, pairs, and mean rewards: of all responses, and of either side of the pairs.

    Some pair there must be.
    """
    pairs = [(each.rewards, each.pair) for each in drawn if each.pair]
    chosen = fmean(rewards[pair.chosen] for rewards, pair in pairs)
    rejected = fmean(rewards[pair.rejected] for rewards, pair in pairs)
    return {
        "prompts": len(drawn),
        "pairs": len(pairs),
        "score": fmean(reward for each in drawn for reward in each.rewards),
        "chosen": chosen,
        "rejected": rejected,
        "margin": chosen - rejected,
    }


class RoundsTrainer(ReferenceOnceTrainer):
    """TRL's trainer on rows that are only drawn when their round has come.

    Its dataset holds their places: a loader fetches ahead, and rows depend on the step before.
    """

    data_collator: Any

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._rounds: Rounds | None = None
        self._pair_collator = self.data_collator
        self.data_collator = self._collate

    def follow(self, rounds: Rounds, held_out: Sequence[PairRow]) -> None:
        """Train on these rounds, and measure on these pairs."""
        self._rounds = rounds
        self.train_dataset = Dataset.from_dict({"place": list(range(rounds.total_rows))})
        self.eval_dataset = Dataset.from_list(list(map(dict, held_out))) if held_out else None
        self.add_callback(SavingRounds(rounds.steps))

    def get_batch_samples(self, *arguments: Any) -> Any:
        """The batches of the next step, once its round has been drawn."""
        assert self._rounds is not None
        self._rounds.reach(self.state.global_step, self.model)
        batches, items = super().get_batch_samples(*arguments)
        return [self._filled(batch) for batch in batches], items

    def _filled(self, batch: Mapping[str, Any]) -> Any:
        assert self._rounds is not None
        return self._pair_collator([self._rounds.row(place) for place in batch["place"]])

    def _collate(self, examples: Sequence[Mapping[str, Any]]) -> Any:
        if "place" not in examples[0]:
            return self._pair_collator(examples)
        return {"place": [example["place"] for example in examples]}

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        """Rows come as token ids, just as they were drawn."""
        return dataset


class SavingRounds(TrainerCallback):  # type: ignore[misc]  # the library has no types
    """Saves the policy that is about to draw: a run stopped while it does goes on from there."""

    def __init__(self, steps: int) -> None:
        self._steps = steps

    def on_step_end(
        self, _: TrainingArguments, state: TrainerState, control: TrainerControl, **__: Any
    ) -> None:
        """After a round's last step."""
        if state.global_step % self._steps == 0:
            control.should_save = True


def _choose_prompts(job: Job, options: OnlineDPOOptions, loaded: Loaded, longest: int) -> Asked:
    """What all rounds ask together, in the order of asking."""
    pool = prompts.read(job, loaded, max_new_tokens=options.max_new_tokens, longest=longest)
    count = options.prompts_asked(len(pool.prompts))
    order = data.shuffled_passes(len(pool.prompts), count, seed=job.spec.seed)
    chosen = {pool.prompts[at].row.number: pool.prompts[at] for at in order}
    split = data.split_by_conversation([p.row for p in chosen.values()], options.eval_share)
    train, held_out = ([chosen[row.number] for row in rows] for rows in split)
    return Asked(train, held_out, pool.too_long)


def _laid_out(pairs: Sequence[PairRow], count: int, *, batch: int, seed: int) -> list[PairRow]:
    """So many rows: passes over the pairs, those of like length in one batch."""
    rows = [pairs[at] for at in data.shuffled_passes(len(pairs), count, seed=seed)]
    lengths = [
        len(r["prompt_ids"]) + max(len(r["chosen_ids"]), len(r["rejected_ids"])) for r in rows
    ]
    order = data.training_order(lengths, epochs=1, batch_size=batch, seed=seed)
    return [rows[at] for at in order]


def _build_trainer(
    job: Job, options: OnlineDPOOptions, loaded: Loaded, known: ReferenceLogProbs
) -> RoundsTrainer:
    return RoundsTrainer(
        model=loaded.model,
        ref_model=loaded.frozen,
        args=DPOConfig(**dpo.trainer_arguments(job, options), remove_unused_columns=False),
        train_dataset=Dataset.from_dict({"place": [0]}),
        processing_class=loaded.tokenizer,
        peft_config=loaded.fresh_adapter,
        reference=known,
    )

"""TRL's PPO as its documentation shows it, run by `ppo.py` in an environment that still has it.

    PYTHON tests/bench/trl_ppo.py PLAN.json

Imports nothing of ours. A line is appended to the plan's `steps` file after each iteration.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, inject_adapter_in_model
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    TrainerCallback,
)
from trl.experimental.ppo import PPOConfig, PPOTrainer


class StepLog(TrainerCallback):  # type: ignore[misc]
    """Tells whoever watches that an iteration is done."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Called by the trainer after each iteration."""
        with self._path.open("a", encoding="utf-8") as steps:
            steps.write("step\n")


def main(plan: dict[str, Any]) -> None:
    """Train for the plan's iterations."""
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(plan["model"], padding_side="left")
    lora = LoraConfig(
        r=plan["lora_r"],
        lora_alpha=plan["lora_alpha"],
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    value_model = _scorer(plan)
    if plan["has_lora_critic"]:
        backbone = value_model.model.named_modules()
        targets = [name for name, module in backbone if isinstance(module, torch.nn.Linear)]
        inject_adapter_in_model(
            LoraConfig(r=lora.r, lora_alpha=lora.lora_alpha, target_modules=targets), value_model
        )
        value_model.score.requires_grad_(True)
    trainer = PPOTrainer(
        args=_config(plan),
        processing_class=tokenizer,
        model=AutoModelForCausalLM.from_pretrained(plan["model"], dtype=torch.float32),
        ref_model=None,  # with LoRA the reference is the policy with its adapter switched off
        reward_model=_scorer(plan).requires_grad_(False),
        value_model=value_model,
        train_dataset=Dataset.from_list([{"input_ids": ids} for ids in plan["prompts"]]),
        peft_config=lora,
        callbacks=[StepLog(Path(plan["steps"]))],
    )
    trainer.train()


def _config(plan: dict[str, Any]) -> Any:
    return PPOConfig(
        output_dir=str(Path(plan["steps"]).parent),
        per_device_train_batch_size=plan["micro_batch_size"],
        gradient_accumulation_steps=plan["rollouts"] // plan["micro_batch_size"],
        num_mini_batches=plan["minibatches"],
        num_ppo_epochs=plan["ppo_epochs"],
        total_episodes=plan["iterations"] * plan["rollouts"],
        local_rollout_forward_batch_size=plan["rollout_batch_size"],
        response_length=plan["max_new_tokens"],
        learning_rate=plan["learning_rate"],
        kl_coef=plan["kl_coef"],
        temperature=1.0,
        stop_token="eos",
        missing_eos_penalty=plan["missing_eos_penalty"],
        num_sample_generations=0,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        save_strategy="no",
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
    )


def _scorer(plan: dict[str, Any]) -> Any:
    return AutoModelForSequenceClassification.from_pretrained(
        plan["reward_model"], num_labels=1, dtype=torch.float32
    )


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))

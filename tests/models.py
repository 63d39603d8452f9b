"""Tiny models and adapters for tests: real files in a folder, made from a config in a second.

The weights are random and never trained, so the text is gibberish; the logits are spread enough for
greedy and sampled text to differ between models, adapters and prompts.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedTokenizerBase

if TYPE_CHECKING:
    from peft import PeftConfig

END_OF_TEXT = "<|endoftext|>"
START_OF_TURN = "<|im_start|>"
END_OF_TURN = "<|im_end|>"
PAD = "<|pad|>"

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] }}<|im_end|>{% endgeneration %}"
    "{% else %}{{ message['content'] }}<|im_end|>{% endif %}"
    "{{ '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

_SENTENCES = (
    "I cannot log in to my account, it is urgent!",
    "Please tap the forgotten password link and follow the message that we send you.",
    "The parcel has not arrived yet. Could you tell me where it is now?",
    "I understand how annoying this is; your refund of 12.50 will arrive within 3 days.",
    "Thank you for waiting. Is there anything else that I can do for you today?",
    "User: hello\n\nAssistant: good morning\n\nSystem: be brief and kind",
)


def build_model(
    folder: Path,
    architecture: str = "llama",
    *,
    chat_template: bool = True,
    pad_is_eos: bool = False,
    seed: int = 0,
    context: int = 256,
) -> Path:
    """Write a tiny causal model and its tokenizer into `folder`, which is returned.

    `architecture` is `llama`, `qwen3` or `gpt2` (absolute positions). `pad_is_eos` leaves the
    tokenizer without any token that could serve as padding; `context` is in tokens.
    """
    import torch
    from transformers import AutoModelForCausalLM

    tokenizer = build_tokenizer(chat_template=chat_template, pad_is_eos=pad_is_eos, context=context)
    config = _config(architecture, tokenizer, context)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


def build_tokenizer(
    *, chat_template: bool = True, pad_is_eos: bool = False, context: int = 256
) -> PreTrainedTokenizerBase:
    """A byte-level BPE tokenizer of about 400 tokens, trained on a handful of sentences."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = [END_OF_TEXT, START_OF_TURN, END_OF_TURN] + ([] if pad_is_eos else [PAD])
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(_SENTENCES, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT if pad_is_eos else PAD,
        additional_special_tokens=[START_OF_TURN, END_OF_TURN],
        model_max_length=context,
    )
    if chat_template:
        tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def build_adapter(
    model_folder: Path, folder: Path, seed: int, config: PeftConfig | None = None
) -> Path:
    """Write an adapter with random weights, large enough to change the text, into `folder`.

    `config` is the method's, of PEFT; a LoRA of all linear layers when it is not given.
    """
    import torch
    from peft import LoraConfig, get_peft_model

    from training.loading import load_base

    config = config or LoraConfig(
        r=4,
        lora_alpha=16,
        target_modules="all-linear",
        init_lora_weights=False,
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = get_peft_model(load_base(model_folder), config)
        for weight in model.parameters():
            if weight.requires_grad:
                weight.data.add_(torch.randn_like(weight) * 0.3)
        model.save_pretrained(folder)
    return folder


def build_fine_tuned(
    model_folder: Path, folder: Path, seed: int, *, dtype: str = "float32"
) -> Path:
    """Write a whole model, every weight a little off the base's, into `folder`: no tokenizer."""
    import torch

    from training.loading import load_base

    model = load_base(model_folder)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for weight in model.parameters():
            weight.data.add_(torch.randn_like(weight) * 0.1)
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    return folder


def _config(architecture: str, tokenizer: PreTrainedTokenizerBase, context: int) -> Any:
    from transformers import GPT2Config, LlamaConfig, Qwen3Config

    shared = {
        "vocab_size": len(tokenizer),
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        # Wide enough that logits differ clearly; the library's 0.02 gives near-uniform ones.
        "initializer_range": 0.2,
    }
    if architecture == "gpt2":
        return GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=context, **shared)
    rotary = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": context,
        "tie_word_embeddings": False,
    }
    if architecture == "qwen3":
        return Qwen3Config(head_dim=16, **rotary, **shared)
    if architecture == "llama":
        return LlamaConfig(**rotary, **shared)
    raise ValueError(f"no tiny model for the architecture {architecture!r}")

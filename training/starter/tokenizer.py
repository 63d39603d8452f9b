"""The starter policy's tokenizer: byte-level BPE with role tokens and a chat template.

An order id is always two tokens, a letter and a two-digit number, so that copying it is easy and an
unseen combination consists of seen parts. The pad token is not the stop token: a masked stop token
would never be learned.
"""

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from training.starter.grammar import Conversation

VOCABULARY = 2048
MAX_LENGTH = 512
LONGEST_TOKEN = 15
"""Bytes: a long English word or five Chinese characters, so that no token is a whole phrase."""

PAD = "<|pad|>"
END = "<|end|>"
ROLES = {"system": "<|system|>", "user": "<|user|>", "assistant": "<|assistant|>"}

CHAT_TEMPLATE = """\
{%- for message in messages -%}
{%- if message['role'] == 'assistant' -%}
{{- '<|assistant|>' -}}
{%- generation -%}{{- message['content'] + '<|end|>' -}}{%- endgeneration -%}
{%- elif message['role'] in ('user', 'system') -%}
{{- '<|' + message['role'] + '|>' + message['content'] + '<|end|>' -}}
{%- else -%}
{{- raise_exception('Unknown role: ' + message['role']) -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}
"""
"""Prefix preserving: the text of the first k messages begins the text of any continuation."""

_ID_LETTER = r" ?[A-H](?=[0-9]{2}(?![0-9]))"
_NUMBER = r"[0-9]{1,2}"


def train_tokenizer(
    texts: Iterable[str], *, vocabulary: int = VOCABULARY
) -> PreTrainedTokenizerFast:
    """A tokenizer learned from the texts; all id letters and two-digit numbers become tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(f"{_ID_LETTER}|{_NUMBER}"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, END, *ROLES.values()],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=LONGEST_TOKEN,
        show_progress=False,
    )
    tokenizer.train_from_iterator([*texts, *_id_lessons()], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=list(ROLES.values()),
        chat_template=CHAT_TEMPLATE,
        padding_side="left",
        model_max_length=MAX_LENGTH,
        clean_up_tokenization_spaces=False,
    )


def encode_conversation(
    tokenizer: PreTrainedTokenizerFast, conversation: Conversation
) -> tuple[list[int], list[bool]]:
    """Token ids of a conversation and, for each, whether the assistant said it (stop included).

    Gives the ids of the chat template, only faster; a test holds the two together.
    """
    end = tokenizer.convert_tokens_to_ids(END)
    ids: list[int] = []
    said: list[bool] = []
    for turn in conversation.turns:
        content = [*tokenizer.encode(turn.content, add_special_tokens=False), end]
        ids += [tokenizer.convert_tokens_to_ids(ROLES[turn.role]), *content]
        said += [False, *[turn.role == "assistant"] * len(content)]
    return ids, said


def _id_lessons() -> list[str]:
    """Enough repetitions of every number and letter that each becomes one token."""
    numbers = [f"{number:02d}" for number in range(100)]
    return [f"Order A{number}, order B{number}. 订单A{number}" for number in numbers] * 40

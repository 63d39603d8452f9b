"""Models and tokenizers from a folder or the hub, and prompts as the token ids that they expect.

One code path for the bundled starter, a folder and a hub id. The trainer process uses it too, so
it knows nothing of the store; importing it imports no torch.
"""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.messages import MessageError
from training.virtual_tokens import VirtualTokens

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

# For models that bring no chat template: a name line before each turn, the end-of-text token after
# each assistant turn. A turn renders the same whatever follows it, and the `generation` marks let a
# trainer take the loss on the assistant's tokens alone, the closing token included.
PLAIN_CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ message['role'] | capitalize }}:\n"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] }}{{ eos_token }}{% endgeneration %}"
    "{% else %}{{ message['content'] }}{% endif %}"
    # A line break right after a block tag would be swallowed (trim_blocks).
    "{{ '\n\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}Assistant:\n{% endif %}"
)

_PAD_CANDIDATES = (
    "<|pad|>",
    "<pad>",
    "[PAD]",
    "<|finetune_right_pad_id|>",
    "<|fim_pad|>",
    "<|vision_pad|>",
)
_ADDED_PAD = "<|pad|>"

# Guards transformers' classes: `from_pretrained` replaces methods that all threads share, and two
# calls that overlap leave them replaced for good (tied weights then stay random from there on).
_LOADING = threading.Lock()


class ModelLoadError(MessageError, ValueError):
    """A model, a tokenizer or an adapter that cannot be used: what it was, and what to do next."""


class PromptRejected(MessageError, ValueError):
    """Messages that this model cannot be given: too long, or refused by its chat template."""


class PromptOverlong(PromptRejected):
    """Messages of more than `limit_tokens` tokens that cannot be cut shorter."""

    def __init__(self, template: str, /, *, limit_tokens: int, **values: object) -> None:
        super().__init__(template, limit_tokens=limit_tokens, **values)
        self.limit_tokens = limit_tokens


def load_tokenizer(source: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder or hub id, with a chat template and a padding token.

    A tokenizer without a chat template gets `PLAIN_CHAT_TEMPLATE`. One that pads with its
    end-of-text token gets a distinct padding token where one exists or fits into the model's
    embedding unchanged; otherwise it keeps the shared one, see `has_distinct_pad`.
    Raises ModelLoadError.
    """
    from transformers import AutoTokenizer

    name = _checked_source(source)
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except _load_failures() as error:
        raise _load_error("tokenizer", name, error) from error
    if not tokenizer.chat_template:
        logger.info("%s has no chat template; the plain one is used", name)
        tokenizer.chat_template = PLAIN_CHAT_TEMPLATE
    _choose_pad(tokenizer, _vocabulary_size(name))
    return tokenizer


def load_base(
    source: str | Path,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    quantization: Any = None,
) -> PreTrainedModel:
    """The causal language model of a folder or hub id, in evaluation mode.

    `device` and `dtype` are torch's names (`cuda`, `bfloat16`); `quantization` is a config of
    transformers for weights of fewer bits. Weights that are missing from the files are an error
    here, while the library would draw them at random. Raises ModelLoadError.
    """
    import torch

    model, _ = _read_model(
        _checked_source(source), getattr(torch, dtype), quantization=quantization
    )
    # The quantising library has placed the weights already, and refuses to have them moved.
    return model.eval() if quantization is not None else model.to(device).eval()


def load_fine_tuned(folder: Path, base: PreTrainedModel) -> PreTrainedModel:
    """A whole model that was trained from `base`, ready to stand beside it.

    It takes the base's device, number type and stop tokens. Raises ModelLoadError when its weights
    are not, by name and shape, the very ones of `base`.
    """
    name = _checked_source(folder)
    model, unknown = _read_model(name, base.dtype)
    differing = unknown | {weight for weight, _ in _shapes(model) ^ _shapes(base)}
    if differing:
        raise ModelLoadError(
            "the model {name} was not trained from this base model: {count} of its weights are "
            "missing, unknown or of another shape ({example} ...); choose one that was",
            name=name,
            count=len(differing),
            example=min(differing),
        )
    model.generation_config = copy.deepcopy(base.generation_config)
    return model.to(base.device).eval()


def has_distinct_pad(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether padding can be told from a real token by its id.

    Generation pads on the left under an attention mask and does not care. Training does: where
    this is False, labels and the last token of a sequence must be found by the attention mask,
    never by the padding id, or the model never learns to stop and a reward model reads its score
    at the wrong place.
    """
    return tokenizer.pad_token_id is not None and tokenizer.pad_token_id != tokenizer.eos_token_id


def check_vocabulary(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> None:
    """Refuse a tokenizer whose ids reach beyond the model's embedding. Raises ModelLoadError."""
    largest = max(tokenizer.get_vocab().values())
    rows = model.get_input_embeddings().weight.shape[0]
    if largest >= rows:
        raise ModelLoadError(
            "the tokenizer of {name} uses token ids up to {largest}, the model knows "
            "{rows}; take both from the same folder",
            name=tokenizer.name_or_path,
            largest=largest,
            rows=rows,
        )


def context_length(model: PreTrainedModel) -> int | None:
    """How many tokens, prompt and completion together, the model has positions for.

    Those that virtual tokens take are not counted.
    """
    length = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if not isinstance(length, int):
        return None
    virtual = VirtualTokens.of(model)
    return length - virtual.count if virtual else length


def stop_token_ids(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> list[int]:
    """The ids that end a completion: every end-of-text id, and the template's end of a turn."""
    ids: set[int] = set()
    # A model that only scores has no settings for generation.
    settings = getattr(model, "generation_config", None)
    for found in (
        tokenizer.eos_token_id,
        settings.eos_token_id if settings else None,
        model.config.get_text_config().eos_token_id,
        end_of_turn_id(tokenizer),
    ):
        ids.update(found if isinstance(found, list | tuple) else [] if found is None else [found])
    return sorted(ids)


def render_prompt(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Mapping[str, object]],
    *,
    max_tokens: int | None = None,
) -> list[int]:
    """The token ids of a conversation, ready for the assistant's turn.

    Above `max_tokens` the oldest turns are dropped, and so is what they leave without a question;
    a leading system message and the last user message always stay. Raises PromptOverlong when
    those alone are too long, PromptRejected when the chat template refuses the messages.
    """
    system = list(messages[:1]) if messages and messages[0]["role"] == "system" else []
    turns = list(messages[len(system) :])
    while True:
        ids = _apply_template(tokenizer, [*system, *turns])
        if max_tokens is None or len(ids) <= max_tokens:
            return ids
        remaining = _without_oldest_exchange(turns)
        if not remaining:
            raise PromptOverlong(
                "the prompt has {tokens} tokens, the model has room for {limit_tokens}; shorten "
                "it or ask for fewer new tokens",
                tokens=len(ids),
                limit_tokens=max_tokens,
            )
        turns = remaining


def _without_oldest_exchange(turns: Sequence[Mapping[str, object]]) -> list[Mapping[str, object]]:
    questions = [at for at, turn in enumerate(turns) if at > 0 and turn["role"] == "user"]
    return list(turns[questions[0] :]) if questions else []


def _apply_template(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, object]]
) -> list[int]:
    from jinja2 import TemplateError

    try:
        ids: list[int] = tokenizer.apply_chat_template(
            list(messages), add_generation_prompt=True, return_dict=False
        )
    except TemplateError as error:
        roles = ", ".join(str(message["role"]) for message in messages)
        raise PromptRejected(
            "the model's chat template refuses a conversation of {roles}: {error}",
            roles=roles,
            error=error,
        ) from error
    return ids


def end_of_turn_id(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The special token that the chat template writes right after an assistant's text, if any."""
    from jinja2 import TemplateError

    content = "probe"
    turns = [{"role": "user", "content": "-"}, {"role": "assistant", "content": content}]
    try:
        rendered: str = tokenizer.apply_chat_template(turns, tokenize=False)
    except TemplateError:
        return None
    tail = rendered.rpartition(content)[2].lstrip()
    ids: list[int] = tokenizer(tail, add_special_tokens=False)["input_ids"] if tail else []
    return ids[0] if ids and ids[0] in tokenizer.get_added_vocab().values() else None


def _choose_pad(tokenizer: PreTrainedTokenizerBase, vocabulary_size: int | None) -> None:
    if has_distinct_pad(tokenizer):
        return
    known = tokenizer.get_vocab()
    for candidate in (*_PAD_CANDIDATES, tokenizer.unk_token):
        if candidate in known and candidate != tokenizer.eos_token:
            tokenizer.pad_token = candidate
            return
    if vocabulary_size is not None and max(known.values()) + 1 < vocabulary_size:
        tokenizer.add_special_tokens({"pad_token": _ADDED_PAD})
    elif tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)


def _read_model(
    name: str, dtype: torch.dtype, *, quantization: Any = None
) -> tuple[PreTrainedModel, set[str]]:
    """A model, and the names of the weights in its files that it has no place for."""
    from transformers import AutoModelForCausalLM

    more = {} if quantization is None else {"quantization_config": quantization}
    try:
        with _LOADING:
            model, report = AutoModelForCausalLM.from_pretrained(
                name, dtype=dtype, output_loading_info=True, **more
            )
    except _load_failures() as error:
        raise _load_error("model", name, error) from error
    if report["missing_keys"]:
        missing = ", ".join(sorted(report["missing_keys"])[:3])
        raise ModelLoadError(
            "the model {name} lacks {lacking} of its weights ({missing} ...); copy or "
            "download it again",
            name=name,
            lacking=len(report["missing_keys"]),
            missing=missing,
        )
    return model, set(report["unexpected_keys"])


def _shapes(model: PreTrainedModel) -> set[tuple[str, tuple[int, ...]]]:
    return {(name, tuple(weight.shape)) for name, weight in model.named_parameters()}


def _vocabulary_size(name: str) -> int | None:
    """Rows of the model's embedding by its config; None for a folder with a tokenizer only."""
    from transformers import AutoConfig

    try:
        size = AutoConfig.from_pretrained(name).get_text_config().vocab_size
    except (OSError, ValueError, AttributeError):
        return None
    return size if isinstance(size, int) else None


def _checked_source(source: str | Path) -> str:
    path = Path(source).expanduser()
    if not path.exists():
        if isinstance(source, Path) or str(source).startswith((".", "/", "~", "\\")):
            raise ModelLoadError("there is no model folder {path}; check the path", path=path)
        return str(source)
    if not path.is_dir():
        raise ModelLoadError("{path} is a file; give the folder that holds config.json", path=path)
    if (path / "adapter_config.json").exists() and not (path / "config.json").exists():
        raise ModelLoadError(
            "{path} holds an adapter; give the folder of its base model", path=path
        )
    return str(path)


def _load_failures() -> tuple[type[Exception], ...]:
    from safetensors import SafetensorError

    # What the loaders raise for files that are absent, torn, of another shape or of no known kind.
    return (OSError, ValueError, RuntimeError, KeyError, TypeError, ImportError, SafetensorError)


def _load_error(what: str, name: str, error: Exception) -> ModelLoadError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    if Path(name).is_dir():
        return ModelLoadError(
            "the {what} in {name} cannot be read: {reason}; copy or download the folder again",
            what=what,
            name=name,
            reason=reason,
        )
    return ModelLoadError(
        "{name} is neither a folder here nor a {what} that the hub gave us: {reason}; "
        "check the name and the network, or download the model and give its folder",
        name=name,
        what=what,
        reason=reason,
    )

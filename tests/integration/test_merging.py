from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.models import build_adapter, build_model
from training import merging
from training.merging import REPORT_FILE, MergeFailed, merge


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_model(tmp_path_factory.mktemp("models") / "tiny")


def test_a_merged_model_answers_as_base_and_adapter_do(tmp_path: Path, model: Path) -> None:
    from peft import PeftModel

    from training.generation import Request, generate
    from training.loading import load_base, load_tokenizer, render_prompt

    adapter = build_adapter(model, tmp_path / "adapter", seed=3)
    report = merge(str(model), adapter, tmp_path / "merged")
    assert 0 <= report.largest_difference < 2e-3
    assert json.loads((tmp_path / "merged" / REPORT_FILE).read_text())["tokens"] == report.tokens
    tokenizer = load_tokenizer(tmp_path / "merged")
    request = Request(render_prompt(tokenizer, [{"role": "user", "content": "Hi"}]), 12, seed=1)
    (merged,) = generate(load_base(tmp_path / "merged"), tokenizer, [request])
    adapted = PeftModel.from_pretrained(load_base(model), adapter)
    (expected,) = generate(adapted, tokenizer, [request])
    assert merged.token_ids == expected.token_ids


def test_a_model_that_differs_is_not_left_behind(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from training.loading import load_base

    adapter = build_adapter(model, tmp_path / "adapter", seed=3)
    # As if merging had silently done nothing: what is read back is the base.
    monkeypatch.setattr(
        merging,
        "load_base",
        lambda folder: load_base(model if Path(folder).name.endswith(".partial") else folder),
    )
    with pytest.raises(MergeFailed, match="differs"):
        merge(str(model), adapter, tmp_path / "merged")
    assert not list(tmp_path.glob("merged*"))


def test_virtual_tokens_are_refused(tmp_path: Path, model: Path) -> None:
    from peft import PromptTuningConfig, get_peft_model

    from training.loading import load_base

    config = PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")
    get_peft_model(load_base(model), config).save_pretrained(tmp_path / "prompt")
    with pytest.raises(MergeFailed, match="virtual tokens"):
        merge(str(model), tmp_path / "prompt", tmp_path / "merged")


def test_the_command_line_says_what_is_wrong(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert merging.main([str(tmp_path / "no"), str(tmp_path), str(tmp_path / "out")]) == 2
    assert "no model folder" in capsys.readouterr().err
    with pytest.raises(SystemExit) as refused:
        merging.main([str(model), str(tmp_path), str(tmp_path)])
    assert refused.value.code == 2

"""All English that the server can show to a person, read off the code and the pages."""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import gradio as gr

from labeling.ui import pages, shell
from store.formats import registry
from training.methods import METHODS
from training.runs import DIED, DIED_AGAIN, STOPPED_ELSEWHERE
from training.shortages import LESS_MEMORY

ROOT = Path(__file__).resolve().parents[1]
# Which argument of which call is a sentence; of `plural` the form that translations go by.
SENTENCES = {
    **{
        "t": 0,
        "mark": 0,
        "plural": 1,
        "Message": 0,
        "Said": 0,
        "_failure": 2,
        "refuse": 1,
        "warn": 0,
    },
    **{"SpecError": 2, "BadInput": 0, "NotFound": 0, "NotAllowed": 0, "Conflict": 0},
    **{"StoreUnavailable": 0, "StoreLocked": 0, "StoreTooNew": 0, "PolicyUnavailable": 0},
    **{
        "TooManyAttempts": 0,
        "RunDirBusy": 0,
        "ModelLoadError": 0,
        "MergeFailed": 0,
        "PromptRejected": 0,
        "PromptOverlong": 0,
    },
    **{
        "__init__": 0,
        "BadData": 0,
        "ModelUnusable": 0,
        "Diverged": 0,
        "WhetstoneError": 0,
        "_bad": 1,
    },
}
# Raised between modules, met by nobody.
INTERNAL = ("GenerationStopped", *dir(builtins))
PROPS = ("label", "info", "placeholder")


def of_code() -> set[str]:
    """Sentences that modules say, raise or keep."""
    found = {DIED, DIED_AGAIN, LESS_MEMORY, STOPPED_ELSEWHERE}
    for folder in ("labeling", "store", "training"):
        for path in (ROOT / folder).rglob("*.py"):
            if "starter" not in path.parts:
                found.update(_sentences(ast.parse(path.read_text(encoding="utf-8"))))
    return {text for text in found if text and not re.fullmatch(r"\{\w+\}", text)}


def of_methods() -> set[str]:
    """What the methods and their options are called, and how they are explained."""
    found = set()
    for method in METHODS.values():
        found |= {method.label, (method.options.__doc__ or "").strip().splitlines()[0]}
        for option in method.options.described():
            found |= {text for text in (option.label, option.help, option.why) if text}
    return found


def of_formats() -> set[str]:
    """How the columns of a format are told, where that is more than their names."""
    return {f.columns for f in registry.FORMATS if re.search(r"\b(or|optional)\b", f.columns)}


def of_components(page: gr.Blocks) -> set[str]:
    """What stands on Gradio's components and in static areas, in the page as all people get it."""
    found: set[str] = set()
    for component in page.config["components"]:
        props = component["props"]
        if component["type"] in ("tabs", "tabitem", "markdown"):
            continue
        found.update(props.get(name) or "" for name in PROPS)
        found.update(str(choice[0]) for choice in props.get("choices") or ())
        if component["type"] == "button":
            found.add(props["value"])
        if "wsl-static" in " ".join(props.get("elem_classes") or ()):
            found.update(map(unescape, re.findall(r">([^<>]+)<", props["value"])))
    return {text for text in found if text}


def lead_page(services: Any) -> gr.Blocks:
    """The leads' page."""
    return shell.build_page("Whetstone", pages.lead_tabs(services))


def _sentences(module: ast.Module) -> Iterator[str]:
    for node in ast.walk(module):
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "advice":
            yield from _text(node.value)
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            raised = getattr(node.exc.func, "id", "")
            if raised not in (*SENTENCES, *INTERNAL) and raised[:1].isupper() and node.exc.args:
                yield from _text(node.exc.args[0])
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "id", None) or getattr(node.func, "attr", "")
        if name in SENTENCES and len(node.args) > SENTENCES[name]:
            yield from _text(node.args[SENTENCES[name]])


def _text(value: ast.expr) -> Iterator[str]:
    """Literals, also those of either branch; a name or an f-string says nothing here."""
    if isinstance(value, ast.Constant) and isinstance(value.value, str):
        yield value.value
    elif isinstance(value, ast.IfExp):
        yield from _text(value.body)
        yield from _text(value.orelse)

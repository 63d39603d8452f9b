"""What stands between a Gradio event and a service: who is asking, and what went wrong.

Every handler goes through here, so that an event sent by hand meets the same checks as a click.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable
from html import escape
from typing import Any, NamedTuple

import gradio as gr

from labeling.access import Actor
from labeling.i18n import language_of, say, speaking, t
from labeling.routes import COOKIE
from labeling.sessions import Sessions
from store.errors import NotAllowed, WhetstoneError

log = logging.getLogger(__name__)

Answer = Callable[..., Any]
Inline = Callable[[str], Any]


class Action(NamedTuple):
    """A press on a button of an action area: what is wanted, of which thing, and what was written.

    `text` is what stood in the button's field, if it has one.
    """

    act: str
    key: str
    text: str = ""


def guarded(sessions: Sessions, answer: Answer, *, inline: Inline | None = None) -> Answer:
    """A Gradio handler that calls `answer(actor, *inputs)`.

    It speaks the person's language. A `WhetstoneError` leaves every output as it is and is shown to
    the person: as a message over the page, or by what `inline(message)` returns. Anything else is
    logged under an incident id.
    """

    def handler(request: gr.Request, *inputs: Any) -> Any:
        with speaking(language_of(request.cookies, request.headers)):
            return _answered(lambda: answer(_actor(sessions, request), *inputs), inline)

    return handler


def acted(sessions: Sessions, answer: Answer) -> Answer:
    """A Gradio handler of an action area that calls `answer(actor, action, *inputs)`."""

    def handler(request: gr.Request, event: gr.EventData, *inputs: Any) -> Any:
        with speaking(language_of(request.cookies, request.headers)):
            return _answered(
                lambda: answer(_actor(sessions, request), _action(event), *inputs), None
            )

    return handler


def _answered(call: Callable[[], Any], inline: Inline | None) -> Any:
    try:
        return call()
    except WhetstoneError as error:
        message = say(error)
    except Exception:
        incident = uuid.uuid4().hex[:8]
        log.exception("Incident %s in a page", incident)
        message = t(
            "Something went wrong (incident {incident}). Nothing saved before is lost; try again, "
            "and tell whoever runs this server if it happens twice.",
            incident=incident,
        )
    if inline is not None:
        return inline(message)
    gr.Warning(escape(message))
    return gr.skip()


def _actor(sessions: Sessions, request: gr.Request) -> Actor:
    actor = sessions.actor(request.cookies.get(COOKIE))
    if actor is None:
        raise NotAllowed("You are signed out. Sign in again in another tab, then repeat this.")
    return actor


def _action(event: gr.EventData) -> Action:
    data = event._data if isinstance(event._data, dict) else {}
    return Action(*(str(data.get(name, "")) for name in Action._fields))

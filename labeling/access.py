"""Who may do what. Every service asks here; a hidden tab is no protection."""

from __future__ import annotations

from dataclasses import dataclass

from store.errors import NotAllowed
from store.records import Annotator, Role


@dataclass(frozen=True)
class Actor:
    """The person on whose behalf a service acts."""

    id: str
    name: str
    role: Role

    @property
    def is_lead(self) -> bool:
        """Leads may do everything that annotators may."""
        return self.role is Role.LEAD


def actor_of(annotator: Annotator) -> Actor:
    """The actor that an annotator is. Raises `NotAllowed` for those who cannot act."""
    if not annotator.is_active or annotator.role is Role.SOURCE:
        raise NotAllowed("{name} cannot sign in.", name=annotator.name)
    return Actor(annotator.id, annotator.name, annotator.role)


def require_lead(actor: Actor, doing: str) -> None:
    """Raises `NotAllowed` unless the actor is a lead."""
    if not actor.is_lead:
        raise NotAllowed(
            "Only a team lead may {doing}. Ask one to do it, or to change your role.", doing=doing
        )

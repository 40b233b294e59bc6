"""`notify`: try whether people can be told."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from ..errors import ConfigError
from .session import Session, command

if TYPE_CHECKING:
    from ..notices import Delivery


def register(app: typer.Typer) -> None:
    command(app, "notify")(notify)


def notify(session: Session) -> None:
    """Send a test message to everybody who is to be told, and say which address took it.

    Example: branchmig notify
    """
    from .. import telling
    from ..render import documents, tables

    given = session.settings.notify
    if not given.urls:
        raise ConfigError(
            "there is nobody to be told", "name somebody in the settings: [notify] urls = [...]"
        )
    urls = telling.addresses(session.settings)
    deliveries = telling.send_trial(urls, os.uname().nodename, given.timeout)
    session.show(
        lambda: documents.deliveries(urls, deliveries),
        lambda: tables.deliveries(urls, deliveries),
    )
    if _failed(deliveries):
        raise typer.Exit(1)


def _failed(deliveries: Sequence[Delivery]) -> bool:
    return any(delivery.error for delivery in deliveries)

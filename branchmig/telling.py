"""After a run: who is told of what.

Floor 6. What stands in HeadOffice decides, not what this run did, so that nothing is forgotten with
a run that was killed before it could tell. Nothing here can change what became of the run.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime

from . import courier
from .config import NotifySettings, Settings
from .errors import BranchmigError, SecretMissing
from .manager import BranchMigrationManager
from .masking import mask, mask_address, remember_words
from .notices import Board, Claims, Delivery, Item, Message, Topic, claims, digest, messages, trial
from .references import resolve
from .sinks import visible

log = logging.getLogger("branchmig")

_KINDS = {
    Topic.FAILURE: "warning",
    Topic.MANUAL: "failure",
    Topic.HALT: "failure",
    Topic.RECOVERY: "success",
    Topic.DIGEST: "info",
}


def tell(manager: BranchMigrationManager) -> None:
    """Tell what is to be told now. Never raises: what goes wrong is a warning, and is tried again
    by the next run."""
    if manager.fence.state.signum is not None:
        return  # whoever stops a run does not wait for a mail server
    try:
        _tell(manager)
    except Exception as error:
        log.warning("people could not be told: %s", visible(mask(str(error))))
        log.debug("where telling failed", exc_info=error)


def _tell(manager: BranchMigrationManager) -> None:
    given, notices = manager.settings.notify, manager.store.notices
    # Before anything is claimed: others may be able to.
    courier.check_installed()
    items = notices.claim(given.on, decision(given))
    if not items:
        return
    told: list[Item] = []
    try:
        told += _sent(manager, items)
    finally:
        notices.told(told)
        known = set(told)
        notices.release([item for item in items if item not in known])


def decision(given: NotifySettings) -> Callable[[Board], Claims]:
    """What of all that stands is to be told, by these settings."""

    def due(since: datetime) -> datetime | None:
        from zoneinfo import ZoneInfo

        from cronsim import CronSim

        return next(CronSim(given.digest, since.astimezone(ZoneInfo(given.tz))), None)

    return lambda board: claims(board, given.on, due)


def _sent(manager: BranchMigrationManager, items: Sequence[Item]) -> list[Item]:
    """Those of the items that at least one address has taken."""
    given = manager.settings.notify
    shown = [replace(i, name=visible(i.name), text=visible(mask(i.text))) for i in items]
    has_digest = any(item.topic is Topic.DIGEST for item in items)
    told = messages(shown, manager.run, _digest(manager) if has_digest else "")
    urls = addresses(manager.settings)
    deliveries = courier.send(
        urls,
        [_letter(message) for message in told],
        given.timeout,
        lambda: manager.fence.state.signum is not None,
    )
    _complain(urls, deliveries)
    taken = {told[delivery.letter].topic for delivery in deliveries if delivery.error is None}
    for message in told:
        if message.topic not in taken:
            log.warning("nobody was told, the next run tries again: %s", message.title)
    return [item for item in items if item.topic in taken]


def _letter(message: Message) -> courier.Letter:
    return visible(mask(message.title)), mask(message.body), _KINDS[message.topic]


def _complain(urls: Sequence[str], deliveries: Sequence[Delivery]) -> None:
    """One line for an address, however many messages it did not take."""
    errors = {delivery.address: delivery.error for delivery in deliveries if delivery.error}
    for address, error in errors.items():
        where = f"[notify] url {address + 1} ({mask_address(urls[address])})"
        log.warning("%s: %s", where, visible(error))


def _digest(manager: BranchMigrationManager) -> str:
    try:
        active = [record for record in manager.store.records() if record.branch.is_active]
        return "\n".join(visible(mask(line)) for line in digest(manager.status(active)).split("\n"))
    except BranchmigError as error:
        return f"how the fleet stands cannot be told: {visible(mask(error.message))}"


def addresses(settings: Settings) -> tuple[str, ...]:
    """Whom to tell, as the services need it. From here on each is a secret that is masked."""
    urls = tuple(_address(url, settings) for url in settings.notify.urls)
    for url in urls:
        remember_words(url)
    return urls


def _address(url: str, settings: Settings) -> str:
    """With its secrets; one whose secret is not here stays as it is, and keeps no other silent."""
    try:
        return resolve(url, settings)
    except SecretMissing as error:
        log.warning("[notify] urls: %s (hint: %s)", error.message, error.hint)
        return url


def send_trial(urls: Sequence[str], host: str, seconds: float) -> tuple[Delivery, ...]:
    """A test message to every address. Raises ConfigError."""
    return courier.send(urls, [_letter(trial(host))], seconds)

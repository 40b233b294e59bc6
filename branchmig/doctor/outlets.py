"""Whether people can be told, and metrics be left where they are looked for. Nothing is sent."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ..config import Settings
from ..courier import check_installed
from ..errors import BranchmigError
from ..model import Diagnosis, Severity


def folders(settings: Settings) -> tuple[Path, ...]:
    """Where a run leaves its metrics."""
    file = settings.metrics.textfile
    return () if file is None else ((settings.folder / file).parent,)


def check(settings: Settings) -> Iterator[Diagnosis]:
    """A run goes on without either, so what is wrong is a warning."""
    if count := len(settings.notify.urls):
        yield _notifications(count)
    for folder in folders(settings):
        yield _metrics(folder)


def _notifications(count: int) -> Diagnosis:
    try:
        check_installed()
    except BranchmigError as error:
        return Diagnosis("notify", "people", Severity.WARNING, error.message, error.hint)
    addresses = "1 address" if count == 1 else f"{count} addresses"
    return Diagnosis(
        "notify", "people", Severity.OK, f"{addresses} to be told at", "`branchmig notify` tries it"
    )


def _metrics(folder: Path) -> Diagnosis:
    try:
        import prometheus_client  # noqa: F401  (whether it is there is all that is asked)
    except ImportError:
        return Diagnosis(
            "metrics", str(folder), Severity.WARNING,
            "the package prometheus-client is not installed", "pip install 'branchmig[metrics]'",
        )  # fmt: skip
    if not folder.is_dir():
        return Diagnosis(
            "metrics", str(folder), Severity.WARNING, "there is no such folder",
            "make it, or mend [metrics] textfile",
        )  # fmt: skip
    if not os.access(folder, os.W_OK | os.X_OK):
        return Diagnosis(
            "metrics", str(folder), Severity.WARNING, "this user may not write there",
            "let the user of the service own it, or a group that both are in",
        )  # fmt: skip
    return Diagnosis("metrics", str(folder), Severity.OK, "metrics can be written")

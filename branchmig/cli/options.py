"""Options and arguments that several commands take."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import typer

from ..terms import MigrationStatus, Provider

if TYPE_CHECKING:
    from ..model import Filters


def _shard(value: str | None) -> str | None:
    if value is None:
        return None
    match = re.fullmatch(r"(\d+)/(\d+)", value)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise typer.BadParameter("it has the form I/N with I from 1 to N, such as 2/5")
    return value


def _upwards(value: str | None) -> str | None:
    if value == "" or (value and value.startswith("-")):
        raise typer.BadParameter(f"{value!r} is no revision to go up to")
    return value


BranchName = Annotated[
    str, typer.Argument(metavar="BRANCH", help="The branch's code, or its id.", show_default=False)
]
AnyBranch = Annotated[
    str | None,
    typer.Argument(metavar="[BRANCH]", help="The branch's code, or its id.", show_default=False),
]
All = Annotated[bool, typer.Option("--all", help="Every active branch that the filters leave.")]
To = Annotated[
    str | None,
    typer.Option(
        "--to", metavar="REV", help="Instead of the target of the settings.", callback=_upwards
    ),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Check = Annotated[bool, typer.Option("--check", help="Exit 1 where something is amiss.")]

Tags = Annotated[
    list[str] | None, typer.Option("--tag", metavar="TAG", help="Branches with one of these tags.")
]
Providers = Annotated[
    list[Provider] | None, typer.Option("--provider", help="Branches on this engine.")
]
Statuses = Annotated[
    list[MigrationStatus] | None,
    typer.Option("--status", help="Branches recorded with this status.", case_sensitive=False),
]
Shard = Annotated[
    str | None,
    typer.Option("--shard", metavar="I/N", help="The I-th of N equal shares.", callback=_shard),
]


def filters(
    tags: list[str] | None,
    providers: list[Provider] | None,
    statuses: list[MigrationStatus] | None,
    shard: str | None,
) -> Filters:
    """The filters that a command was given."""
    from ..model import Filters

    index, _, count = (shard or "").partition("/")
    return Filters(
        tags=tuple(tags or ()),
        providers=tuple(providers or ()),
        statuses=tuple(statuses or ()),
        shard=(int(index), int(count)) if shard else None,
    )

"""`branch ...`: the list of branches."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import BranchmigError, UsageError
from ..terms import Provider
from .options import BranchName, Yes
from .session import Session, command

if TYPE_CHECKING:
    from ..manager import BranchMigrationManager
    from ..model import Branch
    from ..roster import Registrar

Url = Annotated[
    str | None,
    typer.Option(help="SQLAlchemy URL of the database; - reads it from standard input."),
]
Name = Annotated[str | None, typer.Option(help="The branch's name.")]
Engine = Annotated[Provider | None, typer.Option(help="Its engine; the URL tells it.")]
Server = Annotated[str | None, typer.Option(help="The machine it is on, for bounding the load.")]
BranchTags = Annotated[
    list[str] | None, typer.Option("--tag", metavar="TAG", help="A tag; may be repeated.")
]


def register(app: typer.Typer) -> None:
    group = typer.Typer(help="The list of branches.")
    app.add_typer(group, name="branch")
    command(group, "add")(add)
    command(group, "list")(list_branches)
    command(group, "show")(show)
    command(group, "update")(update)
    command(group, "remove")(remove)
    command(group, "import")(import_branches)


def add(
    session: Session,
    code: Annotated[str, typer.Argument(metavar="CODE", help="Unique whatever the case.")],
    url: Annotated[str, typer.Option(help="SQLAlchemy URL; - reads it from standard input.")],
    name: Name = None,
    provider: Engine = None,
    server: Server = None,
    tag: BranchTags = None,
    id: Annotated[str | None, typer.Option(help="A UUID; one is made otherwise.")] = None,
    apply: Annotated[bool, typer.Option("--apply", help="Migrate it at once.")] = False,
) -> None:
    """Add a branch.

    Example: branchmig branch add BR001 --url sqlite:///branches/br001.db --tag north
    """
    from ..render import documents, tables
    from ..roster import Entry

    entry = Entry(
        code=code, url=_url(url), name=name, provider=provider, server=server,
        tags=tuple(tag) if tag else None, id=id,
    )  # fmt: skip
    with session.writing("branch add") as manager:
        branch, identity = _registrar(manager).new(entry)
        manager.store.add(branch, identity)
    _warn_stored_passwords([branch])
    if apply:
        from .migrating import apply as apply_command

        return apply_command(session, branch.code)
    session.show(lambda: documents.branch(branch), lambda: tables.branch(branch))
    return None


def list_branches(session: Session) -> None:
    """List every branch, by code.

    Example: branchmig branch list --json
    """
    from ..render import documents, tables

    with session.reading() as manager:
        branches = [record.branch for record in manager.store.records()]
    session.show(lambda: [documents.branch(b) for b in branches], lambda: tables.branches(branches))


def show(session: Session, branch: BranchName) -> None:
    """Show one branch, its password starred out.

    Example: branchmig branch show BR001
    """
    from ..render import documents, tables

    with session.reading() as manager:
        found = manager.store.record(branch).branch
    session.show(lambda: documents.branch(found), lambda: tables.branch(found))


def update(
    session: Session,
    branch: BranchName,
    url: Url = None,
    name: Name = None,
    server: Server = None,
    tag: BranchTags = None,
    no_tags: Annotated[bool, typer.Option("--no-tags", help="Take every tag away.")] = False,
    active: Annotated[
        bool | None, typer.Option("--active/--inactive", help="Whether runs look at it.")
    ] = None,
) -> None:
    """Change what is said of a branch; what is not named stays.

    Example: branchmig branch update BR001 --tag south --inactive
    """
    from ..render import documents, tables
    from ..roster import Entry

    if tag and no_tags:
        raise UsageError("--tag and --no-tags contradict each other", "leave one of the two out")
    tags = () if no_tags else tuple(tag) if tag else None
    if (url, name, server, tags, active) == (None,) * 5:
        raise UsageError("nothing to change is named", "`branchmig branch update -h` shows what is")
    with session.writing("branch update") as manager:
        present = manager.store.record(branch).branch
        entry = Entry(
            code=present.code, url=_url(url), name=name, server=server, tags=tags,
            is_active=active,
        )  # fmt: skip
        changed, identity = _registrar(manager).changed(entry, present)
        manager.store.update(changed, identity)
    _warn_stored_passwords([changed])
    session.show(lambda: documents.branch(changed), lambda: tables.branch(changed))


def remove(session: Session, branch: BranchName, yes: Yes = False) -> None:
    """Forget a branch. Its database is not touched, and its past stays in the audit trail.

    Example: branchmig branch remove BR001 --yes
    """
    from ..render import documents

    with session.reading() as manager:
        found = manager.store.record(branch).branch
    # Before signals are listened to, so that Ctrl-C still answers it.
    session.confirm(f"Forget the branch {found.code}?", yes)
    with session.writing("branch remove") as manager:
        manager.store.remove(found)
    session.tell(lambda: documents.branch(found), f"{found.code} is forgotten.")


def import_branches(
    session: Session,
    file: Annotated[Path, typer.Argument(metavar="FILE|-", help="CSV or JSON; - is stdin.")],
) -> None:
    """Add and update branches from a file: all of it, or nothing where a line is wrong.

    CSV with the header code,name,url,provider,server,tags,id: any order,
    code and url are needed, tags are separated by semicolons.
    Or a JSON list of objects with these keys.

    Example: branchmig branch import branches.csv
    """
    from ..masking import remember_urls_in
    from ..roster import read_entries

    text = _text(file)
    try:
        entries = list(read_entries(text))
        with session.writing("branch import") as manager:
            listed = _registrar(manager).roster(entries)
            added, changed = manager.store.put(listed)
    except BranchmigError:
        remember_urls_in(text)
        raise
    _warn_stored_passwords(branch for branch, _ in listed)
    counts = {"added": added, "updated": changed, "unchanged": len(listed) - added - changed}
    session.tell(
        lambda: {"success": True, **counts},
        ", ".join(f"{count} {what}" for what, count in counts.items()) + ".",
    )


def _registrar(manager: BranchMigrationManager) -> Registrar:
    from ..headoffice import address, headoffice_strategy
    from ..roster import Registrar

    return Registrar(
        manager.migrator.strategy,
        headoffice_strategy(manager.settings).identity(address(manager.settings)),
        [record.branch for record in manager.store.records()],
    )


def _url(given: str | None) -> str | None:
    """A URL from the command line, or from standard input where it is a dash."""
    from ..masking import remember_url
    from ..roster import refuse_typed_password

    if given is None:
        return None
    if given != "-":
        refuse_typed_password(given)
        return given
    url = sys.stdin.readline().strip()
    if not url:
        raise UsageError("standard input holds no URL", "write the URL on its first line")
    remember_url(url)
    return url


def _warn_stored_passwords(branches: Iterable[Branch]) -> None:
    from ..masking import has_password
    from .session import log

    codes = [branch.code for branch in branches if has_password(branch.url)]
    if codes:
        named = codes[0] if len(codes) == 1 else f"{codes[0]} and {len(codes) - 1} others"
        log.warning(
            "the password of %s is now stored in HeadOffice in the clear; a reference such as "
            "${file:north} or ${credential:north} in its place keeps it on this host",
            named,
        )


def _text(file: Path) -> str:
    try:
        if str(file) == "-":
            return sys.stdin.buffer.read().decode("utf-8-sig")
        return file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UsageError(
            f"{file} cannot be read: {error.strerror}", "name a file, or - for standard input"
        ) from None
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{file} is not UTF-8 text: {error.reason} at byte {error.start}",
            "save it as CSV in UTF-8",
        ) from None

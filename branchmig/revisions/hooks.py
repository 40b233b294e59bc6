"""What `run` tells its caller of while it runs the steps of a plan. Imports no Alembic."""

from __future__ import annotations

from typing import Protocol

from ..model import Step


class Hooks(Protocol):
    """What `run` tells its caller of, in this order for each step; all but `broken` may raise to
    stop it."""

    def before_step(self, step: Step) -> None:
        """Outside any transaction: may this one begin at all?"""

    def begun(self, step: Step) -> None:
        """Within the step's transaction, before its first statement."""

    def broken(self, step: Step) -> None:
        """The revision's function has raised; its transaction is still open. Must not raise."""

    def executed(self, step: Step) -> None:
        """The revision's function has returned; its version row is not written yet."""

    def stamped(self, step: Step) -> None:
        """The version row is written, the transaction not yet committed."""

    def landed(self, step: Step) -> None:
        """The step is committed."""


class NoHooks:
    """Lets every step pass; a base for hooks that care about some moments only."""

    def before_step(self, step: Step) -> None: ...
    def begun(self, step: Step) -> None: ...
    def broken(self, step: Step) -> None: ...
    def executed(self, step: Step) -> None: ...
    def stamped(self, step: Step) -> None: ...
    def landed(self, step: Step) -> None: ...

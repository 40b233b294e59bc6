"""A figure that was measured, beside what it should be."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Result:
    """`aim` is the most that `value` should be, or the least where `least` says so; None: it is
    there to explain the others."""

    what: str
    value: float
    unit: str = ""
    aim: float | None = None
    least: bool = False

    @property
    def is_met(self) -> bool:
        if self.aim is None:
            return True
        return self.value >= self.aim if self.least else self.value <= self.aim

    def __str__(self) -> str:
        line = f"  {self.what:<58}{self.value:>9.3f} {self.unit:<12}"
        if self.aim is None:
            return line.rstrip()
        verdict = "met" if self.is_met else "MISSED"
        return f"{line}{'>=' if self.least else '<='} {self.aim:<6g} {verdict}"

"""The least that a Typer program with a rich help can be: one command, nothing imported."""

from __future__ import annotations

import typer

app = typer.Typer()


@app.command()
def greet(name: str, loud: bool = False) -> None:
    """Greet somebody."""
    print(name.upper() if loud else name)


if __name__ == "__main__":
    app()

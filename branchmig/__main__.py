"""`python -m branchmig`."""

from .cli import main

main()

"""Who runs the program: whoever runs the tests, root without its powers, or somebody else.

Tests run as root in CI, for whom no permission binds, and as an ordinary user elsewhere. The
commands are of util-linux (setpriv(1), unshare(1)).
"""

from __future__ import annotations

import os

IS_ROOT = os.geteuid() == 0

NOBODY = 65534

BOUND: tuple[str, ...] = (
    ("setpriv", "--inh-caps=-all", "--bounding-set=-all", "--") if IS_ROOT else ()
)
"""In front of a command: permissions bind it as they bind an ordinary owner of the files."""

ORDINARY: tuple[str, ...] = (
    (
        "setpriv",
        *(f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"),
        # The checkout and the scratch folders of the tests are root's own. The bit keeps access(2)
        # from forgetting the capability.
        *("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"),
        *("--securebits=+no_setuid_fixup", "--"),
    )
    if IS_ROOT
    else ()
)
"""In front of a command: it is run by somebody who is not root, may read everything, and owns
nothing here where root runs the tests."""

NAMESPACE: tuple[str, ...] = (
    "unshare",
    *(() if IS_ROOT else ("--map-root-user",)),
    *("--mount", "--propagation=private", "--"),
)
"""In front of a command: what it mounts is gone with it, and seen by nobody else."""

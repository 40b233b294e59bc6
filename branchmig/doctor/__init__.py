"""The doctor: looks at everything that a tick needs, changes nothing, and says what to mend.

Floor 6. Every check is a function that gives diagnoses; one that raises is a diagnosis itself.
"""

from __future__ import annotations

from .doctor import diagnose as diagnose

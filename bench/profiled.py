"""The program with all its threads under a profiler: `python -m bench.profiled apply-all`.

What is counted is each thread's own CPU time, so that waiting is no cost. Worker processes are left
out.
"""

from __future__ import annotations

import cProfile
import pstats
import sys
import threading
import time

_THREADS: list[cProfile.Profile] = []
_run = threading.Thread.run


def _profiled(thread: threading.Thread) -> None:
    profile = cProfile.Profile(time.thread_time)
    _THREADS.append(profile)
    profile.runcall(_run, thread)


def main() -> None:
    # Only for this process: every thread of the program is to be seen.
    threading.Thread.run = _profiled  # type: ignore[method-assign,assignment]
    program = cProfile.Profile(time.thread_time)
    program.enable()
    try:
        from branchmig.cli import main as branchmig

        branchmig()
    finally:
        program.disable()
        stats = pstats.Stats(program, *_THREADS)
        stats.sort_stats("tottime").print_stats(25)
        stats.sort_stats("cumulative").print_stats("branchmig|alembic|sqlalchemy", 40)
        sys.stdout.flush()


if __name__ == "__main__":
    main()

"""What this processor can do, asked before a library is opened that would end the process on one that cannot."""

import re
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
# x86-64-v3, by Linux's names
NEEDED = ("avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe")


def missing_instructions() -> list[str]:
    """Return which of the instructions that the installed library is made of this processor lacks."""
    has = _flags()
    return [name for name in NEEDED if name not in has]


def _flags() -> set[str]:
    """Return what the first processor can do: Linux asks all of them for what is read on, which takes a while."""
    try:
        with CPUINFO.open() as lines:
            for line in lines:
                if re.match(r"flags\s*:", line):
                    return set(line.partition(":")[2].split())
    except OSError:  # not Linux, or hidden: nothing is known
        pass
    return set()

"""How many processors there are for this process."""

from __future__ import annotations

import math
import os
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_UNBOUNDED = float(2**31)


def cores(cgroups: Path = _CGROUPS) -> int:
    """As many as it may run on, or as the quota of its container comes to, rounded up, where that is less.

    Args:
        cgroups: where the files of the control group are, of version 2 or 1 (cgroups(7)).
    """
    return min(len(os.sched_getaffinity(0)), math.ceil(_quota(cgroups)))


def _quota(cgroups: Path) -> float:
    """Processors; very many without a bound."""
    try:
        quota, period = (cgroups / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota, period = (
                (cgroups / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period")
            )
        except OSError:
            return _UNBOUNDED
    try:
        found = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):  # "max"
        return _UNBOUNDED
    return found if found > 0 else _UNBOUNDED  # -1

"""The one function of psutil that RQ's tests call, so that nothing has to be installed for them."""

from __future__ import annotations

import os


def pid_exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True

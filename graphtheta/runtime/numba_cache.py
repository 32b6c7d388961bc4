"""Folder where Numba keeps compiled functions.

Numba's files are pickles, which can run any code when they are loaded. They are only loaded from
folders that no other user can write to.
"""

from __future__ import annotations

import atexit
import os
import sys
from contextlib import ExitStack
from pathlib import Path

from graphtheta.runtime.paths import is_private, private_cache
from graphtheta.runtime.scratch import scratch_folder

__all__ = ["use_private_numba_cache"]

_VARIABLE = "NUMBA_CACHE_DIR"
_PACKAGE = Path(__file__).parents[1]


def use_private_numba_cache() -> None:
    """Change NUMBA_CACHE_DIR if other users can write to the folder where Numba would keep code.

    The folder is that of the variable, or a subfolder of it if others can write to it; without the
    variable, that of the source files, which is as safe as these. If these cannot be used, it is
    `numba` in the cache folder, or else a temporary one for this process.
    """
    given = os.environ.get(_VARIABLE)
    if not given and os.access(_PACKAGE, os.W_OK):
        return
    folders = [Path(given), Path(given) / f"graphtheta-{os.getuid()}"] if given else []
    candidates = (*filter(is_private, folders), private_cache("numba"))
    private = next((f for f in candidates if f and os.access(f, os.W_OK)), None)
    if private is None:
        until_exit = ExitStack()
        private = until_exit.enter_context(scratch_folder())
        atexit.register(until_exit.close)
    if given is None or private != Path(given):
        os.environ[_VARIABLE] = str(private)
        if "numba" in sys.modules:  # which has read the variable
            sys.modules["numba"].config.CACHE_DIR = str(private)

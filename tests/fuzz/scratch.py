"""Folders that live as long as the process: fuzz targets use them case after case."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from pathlib import Path


def scratch_folder() -> Path:
    """A fresh folder, removed at the process's orderly end; `tools/fuzz.py` removes what others leave."""
    folder = Path(tempfile.mkdtemp(prefix="fedvlm-fuzz-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder

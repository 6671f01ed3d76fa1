"""readable: the code a locked process may read late (imports inside functions, libraries). Never data."""

from __future__ import annotations

import os
import site
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

from evorank.model.errors import LockError

__all__ = ["readable_code"]

OWN_FOLDERS = ("graph", "model", "personas", "prompts", "surfaces", "tools")
SYSTEM_CODE = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache")
CLOCKS = ("/etc/localtime", "/usr/share/zoneinfo")


def readable_code(extra: Sequence[Path] = (), hidden: Sequence[Path] = ()) -> list[Path]:
    """Folders and files with code that a locked process may have to read late: for `lock` and `wrapped`.

    The standard library and site-packages of this interpreter, shared libraries of the system, time zones,
    this package's own subfolders (never the checkout, since homes lie below it), and `extra`: where a
    user's own system lies, a folder or a single file. All exist, are resolved, and none lies below another.
    LockError if `hidden` (homes, data) lies within one of them: such a folder must never be readable.
    """
    paths = sysconfig.get_paths()
    found = [Path(paths[name]) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    found += [Path(folder) for folder in site.getsitepackages()]
    if site.ENABLE_USER_SITE:
        found.append(Path(site.getusersitepackages()))
    found.append(Path(sys.base_prefix) / "lib")
    found += [Path(path) for path in (*SYSTEM_CODE, *CLOCKS)]
    own = Path(__file__).resolve().parents[2]
    found += [own / folder for folder in OWN_FOLDERS]
    found += extra
    resolved = {path.resolve() for path in found if os.path.exists(path)}  # False also where we may not look
    # The root of everything, should an interpreter live there, is no folder of code.
    kept = sorted(path for path in resolved if not resolved & set(path.parents) and path != Path(path.root))
    for secret in (Path(path).resolve() for path in hidden):
        for path in kept:
            if path == secret or path in secret.parents:
                raise LockError(
                    f"`{secret}` holds data and lies in `{path}`, whose code candidates must be able to read."
                    f" Move it elsewhere, or name another `--home`."
                )
    return kept

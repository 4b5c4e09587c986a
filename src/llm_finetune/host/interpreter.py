"""How Python is started from here: the folder that the command is called in holds data, and none of it runs.

`python -m` and `python -c` look for modules in that folder first, so that a yaml.py among downloaded files
would be imported in the library's place. PYTHONPATH and packages of the user's own stay: somebody chose them.
"""

from __future__ import annotations

import os

SAFE_PATH = "-P"


def module(name: str) -> list[str]:
    """The interpreter's arguments that run a module of this project."""
    return [SAFE_PATH, "-m", name]


def keep_working_folder_out() -> None:
    """What libraries start from this process, and from its children, leaves that folder out as well."""
    os.environ["PYTHONSAFEPATH"] = "1"

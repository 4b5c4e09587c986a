"""The heavy libraries: what a job loads of them, and what it leaves usable."""

from __future__ import annotations

import subprocess
import sys

JOB_LOADS = """
import gc, sys
from llm_finetune.runtime.fast_imports import loading
with loading():
    from llm_finetune import stages
print(*(name for name in ("datasets", "pandas", "pyarrow") if name in sys.modules))
import datasets
print(datasets.Dataset.from_list([{"text": "usable"}])[0]["text"], gc.isenabled(), gc.get_freeze_count() > 0)
"""


def test_a_job_loads_no_tables_and_can_read_them_all_the_same() -> None:
    result = subprocess.run([sys.executable, "-c", JOB_LOADS], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines() == ["", "usable True True"]

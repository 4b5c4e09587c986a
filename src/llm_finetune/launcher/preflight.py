"""What the settings ask of the machine that a job runs on, and whether it is there."""

from __future__ import annotations

import importlib.util

from llm_finetune.config import Settings
from llm_finetune.distributed import available_cores, check_backend, has_bf16
from llm_finetune.errors import SettingsError
from llm_finetune.models import ipex

# More than one gains nothing, and each of them needs memory of its own.
PROCESSES_PER_CORE = 8


def check_machine(settings: Settings, processes: int) -> None:
    """Raises SettingsError where this machine lacks what the settings name.

    Args:
        processes: ranks in all.
    """
    most = PROCESSES_PER_CORE * available_cores()
    if settings.processes_per_worker > most:
        raise SettingsError(
            f"distributed.processesPerWorker: found {settings.processes_per_worker}, expected {most} at most "
            f"on {available_cores()} cores; one process is best on one socket"
        )
    check_backend(settings.train.ddp_backend, processes)
    for package in settings.train.report_to or ():
        if importlib.util.find_spec(package) is None:
            raise SettingsError(
                f"distributed.train.reportTo: {package} is not installed here; "
                f"run `pip install {package}`, or take it out"
            )
    if settings.train.bf16 is True and not has_bf16():
        raise SettingsError(
            "distributed.train.bf16: found true, but this processor has no bfloat16 (avx512_bf16, amx_bf16); "
            "write auto or false"
        )


def machine_warnings(settings: Settings) -> list[str]:
    """Settings that have no effect on this machine, a line each."""
    if settings.train.use_ipex and not ipex.is_installed():
        return [
            "distributed.train.useIpex: the Intel extension is not installed; torch's own kernels are used"
        ]
    return []

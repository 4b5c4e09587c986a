"""What settings ask of a machine, before anything is started on it."""

from __future__ import annotations

import pytest

from llm_finetune.config import load
from llm_finetune.distributed import available_cores
from llm_finetune.errors import SettingsError
from llm_finetune.launcher.preflight import PROCESSES_PER_CORE, check_machine


def test_more_processes_than_the_cores_can_carry_are_refused() -> None:
    most = PROCESSES_PER_CORE * available_cores()
    plain = "distributed.train.ddpBackend=gloo,distributed.train.bf16=false,distributed.train.reportTo=null"
    for processes in (most, most + 1):
        settings = load([], set_values=[plain, f"distributed.processesPerWorker={processes}"]).settings
        if processes == most:
            check_machine(settings, processes)
            continue
        with pytest.raises(SettingsError, match=f"processesPerWorker: found {processes}, expected {most} at"):
            check_machine(settings, processes)

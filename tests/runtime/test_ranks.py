"""The environment that torchrun sets, whole and broken."""

from __future__ import annotations

import subprocess
import sys

import pytest

from llm_finetune.distributed import Ranks
from llm_finetune.errors import GroupError, SettingsError
from llm_finetune.host.network import address_towards
from llm_finetune.runtime.ranks import master

WHOLE = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}


def test_without_torchrun_there_is_one_process() -> None:
    ranks = Ranks.from_environment({"LOCAL_RANK": "0", "PATH": "/bin"})
    assert ranks == Ranks(0, 1, 0, 1)
    assert ranks.is_main_process


def test_under_torchrun_its_word_counts() -> None:
    ranks = Ranks.from_environment(WHOLE)
    assert ranks == Ranks(3, 4, 1, 2)
    assert not ranks.is_main_process


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"WORLD_SIZE": None}, "RANK=3, LOCAL_RANK=1, LOCAL_WORLD_SIZE=2 without WORLD_SIZE"),
        ({"RANK": None, "LOCAL_RANK": None}, "without RANK, LOCAL_RANK"),
        ({"RANK": "one"}, "RANK is 'one', expected a whole number"),
        ({"RANK": "-1"}, "RANK is '-1', expected a whole number"),
        ({"WORLD_SIZE": ""}, "WORLD_SIZE is '', expected a whole number"),
        ({"RANK": "4"}, "RANK=4, WORLD_SIZE=4, LOCAL_RANK=1, LOCAL_WORLD_SIZE=2 do not fit"),
        ({"RANK": "²"}, "RANK is '²', expected a whole number"),
        ({"RANK": "9" * 5000}, "expected a whole number"),
        ({"LOCAL_RANK": "2"}, "do not fit"),
        ({"LOCAL_WORLD_SIZE": "5"}, "do not fit"),
        ({"WORLD_SIZE": "0"}, "do not fit"),
    ],
)
def test_a_broken_environment_is_refused(change: dict[str, str | None], said: str) -> None:
    environment = {name: value for name, value in (WHOLE | change).items() if value is not None}
    with pytest.raises(SettingsError) as refusal:
        Ranks.from_environment(environment)
    assert said in str(refusal.value)


def test_the_light_half_of_the_room_leaves_torch_alone() -> None:
    names = "Ranks, available_cores, check_backend, has_bf16"
    program = f"import sys; from llm_finetune.distributed import {names}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "MASTER_ADDR and MASTER_PORT missing"),
        ({"MASTER_ADDR": "host", "MASTER_PORT": "65536"}, "MASTER_PORT is 65536, expected 1 to 65535"),
        ({"MASTER_ADDR": "host", "MASTER_PORT": "0"}, "MASTER_PORT is 0"),
        ({"MASTER_ADDR": "host", "MASTER_PORT": "port"}, "MASTER_PORT is 'port', expected a whole number"),
    ],
)
def test_a_meeting_place_that_cannot_be_is_refused(given: dict[str, str], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        master(given)


@pytest.mark.parametrize("host", ["h" * 64, "no such host", "a..b"])
def test_a_host_that_no_way_leads_to_is_an_error_of_one_line(host: str) -> None:
    with pytest.raises(GroupError, match="MASTER_ADDR is"):
        address_towards(host)

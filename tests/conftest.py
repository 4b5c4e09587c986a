"""What tests of several rooms share: a tiny model, records, and the folder of real data."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from llm_finetune.distributed import lower_libraries
from process_pool import Warm
from tiny_model import SENTENCES, tiny_model, write_records

lower_libraries()  # LLM_FINETUNE_MAX_CPU_ISA=avx2 shows how all of this does on an older processor

# The same examples each time, so that a failure comes again; --hypothesis-profile=default looks for new ones.
settings.register_profile("same", derandomize=True)
settings.load_profile("same")

SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(scope="session", autouse=True)
def own_process() -> Iterator[None]:
    """A job run in this process must not start it again with another allocator: the tests would end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("llm_finetune.host.allocator.start_again_with", lambda variables: None)
        yield


@pytest.fixture(autouse=True)
def log_level() -> None:
    """As in a process that has just started: a job that ran in this one has set its own."""
    logging.getLogger("llm_finetune").setLevel(logging.NOTSET)
    logging.getLogger().setLevel(logging.WARNING)


@pytest.fixture
def outside_any_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test starts as no rank of a group."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("TORCH_CPP_LOG_LEVEL", "ERROR")


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real records and a real pretrained model, where they stand beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip("needs the folder `shared` beside the checkout")
    return SHARED


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model of a few thousand parameters with a tokenizer of its own, as transformers saves them."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("base")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", model_max_length=128
    )
    fast.save_pretrained(folder)
    tiny_model("llama", vocabulary=fast.vocab_size).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    """The command in processes that start within a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_DATASETS_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        yield Warm(tmp_path_factory.mktemp("said"))


@pytest.fixture(scope="session")
def data_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty instruction records whose answers can be learned."""
    return write_records(tmp_path_factory.mktemp("data") / "records.jsonl", range(60))

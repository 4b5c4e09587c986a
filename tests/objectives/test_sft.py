"""The loss on packed rows is the loss of the records alone, whatever the architecture."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from llm_finetune.data.prepared_dataset import IGNORE_INDEX
from llm_finetune.objectives.log_probs import label_log_probs
from tiny_model import ARCHITECTURES, VOCABULARY, tiny_model


def record(length: int, labeled_from: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(3, VOCABULARY, (length,), generator=torch.Generator().manual_seed(seed))
    labels = ids.clone()
    labels[: max(labeled_from, 1)] = IGNORE_INDEX
    return ids, labels


RECORDS = [record(20, 8, 1), record(2, 0, 2), record(1, 0, 3), record(25, 0, 4)]


def as_row(
    records: list[tuple[torch.Tensor, torch.Tensor]],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    ids = torch.cat([ids for ids, _ in records]).unsqueeze(0)
    labels = torch.cat([labels for _, labels in records]).unsqueeze(0)
    positions = torch.cat([torch.arange(len(ids)) for ids, _ in records]).unsqueeze(0)
    return ids, positions, labels


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_packed_row_gives_what_its_records_give_alone(architecture: str) -> None:
    model = tiny_model(architecture)
    packed = label_log_probs(model, *as_row(RECORDS))
    alone = torch.cat([label_log_probs(model, *as_row([one])) for one in RECORDS])
    torch.testing.assert_close(packed, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_loss_and_gradient_are_transformers_own(architecture: str) -> None:
    def gradients(loss: torch.Tensor, model: Any) -> list[torch.Tensor]:
        loss.backward()
        return [parameter.grad for parameter in model.parameters()]

    ids, positions, labels = as_row([RECORDS[0]])
    ours, theirs = tiny_model(architecture), tiny_model(architecture)
    our_loss = -label_log_probs(ours, ids, positions, labels).mean()
    their_loss = theirs(input_ids=ids, position_ids=positions, labels=labels).loss
    torch.testing.assert_close(our_loss, their_loss, rtol=1e-5, atol=1e-6)
    for our, their in zip(gradients(our_loss, ours), gradients(their_loss, theirs), strict=True):
        torch.testing.assert_close(our, their, rtol=1e-4, atol=1e-6)


def test_a_row_without_labels_has_no_loss_but_a_gradient_of_zero() -> None:
    model = tiny_model("llama")
    ids, positions, labels = as_row([RECORDS[0]])
    loss = label_log_probs(model, ids, positions, torch.full_like(labels, IGNORE_INDEX)).sum()
    loss.backward()
    assert loss.item() == 0
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in model.parameters())

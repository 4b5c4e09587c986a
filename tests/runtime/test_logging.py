"""What comes from outside steers no terminal, and passes for no line of the log."""

from __future__ import annotations

import logging
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_finetune.runtime.logging import LONGEST, configure, entry, plain
from llm_finetune.runtime.termination_message import report_error

FORGED = "a\x1b[2J\x1b]52;c;ZXZpbA==\x07b\r\n10:00:00 INFO done: model, results and report are in /evil\u202e"
LINE = re.compile(r"\d\d:\d\d:\d\d [A-Z]+ ")
ANYTHING = st.text(st.characters(), max_size=40)  # halves of surrogate pairs among them


@given(text=ANYTHING)
def test_any_text_is_shown_without_what_steers_a_terminal(text: str) -> None:
    shown = plain(text)
    shown.encode()
    assert not [char for char in shown if (ord(char) < 32 and char not in "\n\t") or 127 <= ord(char) < 160]
    assert shown.splitlines() == shown.removesuffix("\n").split("\n") or not shown
    assert shown == text or not text.isprintable()


@given(text=ANYTHING)
def test_any_text_is_one_message(text: str) -> None:
    assert all(line.startswith("    ") for line in entry(text).split("\n")[1:])


def test_a_message_is_one_line_of_the_log_whatever_is_in_it(
    capfd: pytest.CaptureFixture[str],
) -> None:
    configure("info", rank=0)
    logger = logging.getLogger("llm_finetune.test")
    logger.info("found %s", FORGED)
    try:
        raise ValueError(FORGED)
    except ValueError:
        logger.exception("failed")
    said = capfd.readouterr().err
    assert not re.search(r"[\x1b\x07\r\u202e]", said)
    assert len([line for line in said.splitlines() if LINE.match(line)]) == 2
    assert r"a\x1b[2J\x1b]52;c;ZXZpbA==\x07b\r" in said


def test_an_error_is_shown_so_too_and_has_an_end(capfd: pytest.CaptureFixture[str]) -> None:
    report_error([FORGED, "x" * 10**6])
    first, forged, second = capfd.readouterr().err.splitlines()
    assert first == r"error: a\x1b[2J\x1b]52;c;ZXZpbA==\x07b\r"
    assert forged.startswith("    10:00:00 INFO done")
    assert len(second) < LONGEST + 100
    assert second.endswith("characters more)")

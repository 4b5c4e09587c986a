"""`llm-finetune chat` as a person and as a pipe use it."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli_runner import SCRIPTS, Outcome, assignments, run_here
from tiny_model import tiny_model

OPENINGS = {"with_input": "Do what is asked.", "without_input": "Answer."}
CHAT_TEMPLATE = (
    "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
Chat = Callable[..., Outcome]


@pytest.fixture(scope="module")
def tuned(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A model folder as training leaves it; its answers mean nothing, but follow from the questions."""

    def make(prompt_format: str, **config: Any) -> Path:
        import torch
        from transformers import AutoTokenizer

        folder = tmp_path_factory.mktemp("tuned")
        tokenizer = AutoTokenizer.from_pretrained(model_folder)
        if prompt_format == "chat":
            tokenizer.chat_template = CHAT_TEMPLATE
        tokenizer.save_pretrained(folder)
        model = tiny_model("llama", vocabulary=len(tokenizer))
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(4)
        model.config.update(config)
        model.save_pretrained(folder)
        (folder / "prompt.json").write_text(json.dumps({"format": prompt_format, **OPENINGS}))
        return folder

    return make


@pytest.fixture(scope="module")
def folders(tuned: Callable[..., Path]) -> dict[str, Path]:
    return {prompt_format: tuned(prompt_format) for prompt_format in ("alpaca", "chat", "text")}


class Typed(io.TextIOWrapper):
    """Lines that a person types."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def chat(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Chat:
    """Runs the command in this process with these lines in its pipe, or typed; the text is its answers."""
    from llm_finetune.cli import main

    def run(folder: Path, lines: str | bytes, *options: str, typed: bool = False) -> Outcome:
        capfd.readouterr()
        given = io.BytesIO(lines if isinstance(lines, bytes) else lines.encode())
        monkeypatch.setattr(sys, "stdin", (Typed if typed else io.TextIOWrapper)(given, encoding="utf-8"))
        greedy = ["--temperature", "0", "--max-new-tokens", "12"]
        monkeypatch.setattr(sys, "argv", ["llm-finetune", "chat", str(folder), *greedy, *options])
        with pytest.raises(SystemExit) as exited:
            main.main()
        printed = capfd.readouterr()
        sys.stderr.write(printed.err)
        return Outcome(int(exited.value.code or 0), printed.out)

    return run


def generated(folder: Path, prompt: str) -> str:
    """transformers' own answer to the text of a prompt."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    output = model.generate(ids, max_new_tokens=12, do_sample=False)
    text: str = tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True)
    return text


def saved(file: Path) -> list[Any]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_a_pipe_gets_the_answers_and_nothing_else(folders: dict[str, Path]) -> None:
    """As a process of its own, with real pipes."""
    done = subprocess.run(
        [
            sys.executable,
            str(SCRIPTS / "finetune.py"),
            "chat",
            str(folders["alpaca"]),
            "--max-new-tokens",
            "9",
        ],
        input="Say it.\n\nSay it.\n",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("\n")
    assert ">" not in done.stdout.replace("</s>", "")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("prompt_format", "options", "prompt"),
    [
        ("alpaca", (), "Answer.\n\n### Instruction:\nSay it.\n\n### Response:\n"),
        ("alpaca", ("--system", "Sing."), "Sing.\n\n### Instruction:\nSay it.\n\n### Response:\n"),
        (
            "alpaca",
            ("--instruction", "Repeat."),
            "Do what is asked.\n\n### Instruction:\nRepeat.\n\n### Input:\nSay it.\n\n### Response:\n",
        ),
        ("chat", (), "<system>Answer.</s><user>Say it.</s><assistant>"),
        ("chat", ("--system", "Sing."), "<system>Sing.</s><user>Say it.</s><assistant>"),
        ("text", (), "Say it."),
    ],
)
def test_a_model_is_asked_in_the_form_of_its_training(
    chat: Chat, folders: dict[str, Path], prompt_format: str, options: tuple[str, ...], prompt: str
) -> None:
    outcome = chat(folders[prompt_format], "Say it.\n", *options)
    assert outcome == Outcome(0, generated(folders[prompt_format], prompt) + "\n")


def test_a_tuned_adapter_answers_as_it_did_in_its_evaluation(
    chat: Chat,
    model_folder: Path,
    data_file: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    values = {
        "modelNameOrPath": str(model_folder),
        "train__datasetName": None,
        "train__dataFile": str(data_file),
        "train__outputDir": str(tmp_path / "out"),
        "train__maxSteps": 4,
        "train__learningRate": 0.05,
        "train__bf16": False,
        "train__reportTo": None,
        "train__maxSeqLength": 128,
        "train__promptWithInput": "Do what is asked.",
        "eval__maxNewTokens": 12,
    }
    outcome = run_here(capfd, monkeypatch, *assignments(**values))
    assert outcome.code == 0, outcome.text
    evaluation = json.loads((tmp_path / "out" / "eval_results.json").read_text())
    assert set(evaluation["tuned"]) == {"loss", "perplexity", "rouge_l", "exact_match"}
    assert len(evaluation["samples"]) == 8
    assert any(sample["base"] != sample["tuned"] for sample in evaluation["samples"])
    sample = evaluation["samples"][0]
    # The records' answers are their inputs.
    answered = chat(tmp_path / "out", sample["expected"] + "\n", "--instruction", "Say it again.")
    assert answered == Outcome(0, sample["tuned"] + "\n")


def test_a_question_is_asked_with_what_was_said_before(
    chat: Chat, folders: dict[str, Path], tmp_path: Path
) -> None:
    file = tmp_path / "said.jsonl"
    lines = f"Say it.\nAgain!\n/save {file}\n/reset\nAgain!\n/save {file}\n"
    outcome = chat(folders["alpaca"], lines, typed=True)
    assert outcome.code == 0
    together, alone = (record["messages"] for record in saved(file))
    assert [turn["role"] for turn in together] == ["user", "assistant"] * 2
    first, second = together[1]["content"], together[3]["content"]
    asked = "Answer.\n\n### Instruction:\nSay it.\n\n### Response:\n"
    again = f"{asked}{first}</s>\n\n### Instruction:\nAgain!\n\n### Response:\n"
    assert second == generated(folders["alpaca"], again)
    assert [turn["content"] for turn in alone] == [
        "Again!",
        outcome.text.removeprefix(f"{first}\n{second}\n")[:-1],
    ]
    assert alone[1]["content"] != second


@pytest.mark.parametrize(
    ("prompt_format", "options", "data_type"),
    [
        ("alpaca", ("--system", "Sing."), "messages"),
        ("alpaca", ("--instruction", "Repeat."), "instruction"),
        ("text", (), "text"),
    ],
)
def test_what_is_saved_can_be_trained_on(
    chat: Chat,
    folders: dict[str, Path],
    tmp_path: Path,
    prompt_format: str,
    options: tuple[str, ...],
    data_type: str,
) -> None:
    from transformers import AutoTokenizer

    from llm_finetune.data import PrepareSpec, Source, preview

    file = tmp_path / "said.jsonl"
    assert chat(folders[prompt_format], f"Say it.\nAgain!\n/save {file}\n", *options, typed=True).code == 0
    file.write_text(file.read_text().rstrip("\n"))  # as some editors leave it
    assert chat(folders[prompt_format], f"Say it.\n/save {file}\n", *options, typed=True).code == 0
    tokenizer = AutoTokenizer.from_pretrained(folders[prompt_format])
    seen = preview(PrepareSpec(training=(Source(files=file),), validation_share=0.0), tokenizer)
    assert seen.data_type == data_type
    assert seen.checked == (2 if data_type == "messages" else 3)


def test_what_no_longer_fits_is_left_out_and_told(
    chat: Chat, folders: dict[str, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    outcome = chat(folders["text"], "A\n" * 3 + "B " * 200 + "\n")
    assert outcome.code == 3
    assert "tokens with its prompt" in capfd.readouterr().err
    assert outcome.text.count("\n") >= 3
    outcome = chat(folders["alpaca"], "Say it again.\n" * 5)
    assert outcome.code == 0
    assert "no longer fit" in capfd.readouterr().err


def test_the_same_seed_gives_the_same_answers_and_each_question_one_of_its_own(
    chat: Chat, folders: dict[str, Path], tmp_path: Path
) -> None:
    hot = ("--temperature", "1.5", "--top-k", "0", "--top-p", "1")
    files = [tmp_path / name for name in ("first", "again", "other")]
    for file, seed in zip(files, "112", strict=True):
        lines = f"Say it.\nSay it.\n/save {file}\n"
        assert chat(folders["text"], lines, *hot, "--seed", seed, typed=True).code == 0
    first, again, other = map(saved, files)
    assert first == again
    assert first != other
    assert first[0] != first[1]


def test_an_answer_in_sections_ends_where_the_next_question_would_begin(
    chat: Chat, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoTokenizer

    from llm_finetune.generation import decoding

    ids = AutoTokenizer.from_pretrained(folders["text"])("La la\n\n### Instruction:\nMore")["input_ids"]
    tokens = [[decoding.Token(token, 0.0)] for token in ids]
    monkeypatch.setattr(decoding, "decode", lambda *_, **__: iter(tokens))
    assert chat(folders["alpaca"], "Say it.\n").text == "La la\n"
    assert "### Instruction:" in chat(folders["text"], "Say it.\n").text


def test_a_text_goes_on_with_the_space_that_belongs_to_it(chat: Chat, shared: Path) -> None:
    """Its tokenizer, as Llama 2's, leaves out the space before a text of its own."""
    outcome = chat(shared / "models" / "stories260K", "Once upon a\n")
    assert outcome.text.startswith(" time, there was a little girl")


@pytest.mark.parametrize(
    ("lines", "options", "code", "message"),
    [
        ("Say it.\n", ("--system", "a", "--instruction", "b"), 2, "--instruction"),
        ("Say it.\n", ("--top-p", "2"), 2, "--top-p"),
    ],
)
def test_a_mistake_in_a_pipe_ends_with_its_code(
    chat: Chat,
    folders: dict[str, Path],
    capfd: pytest.CaptureFixture[str],
    lines: str,
    options: tuple[str, ...],
    code: int,
    message: str,
) -> None:
    assert chat(folders["alpaca"], lines, *options).code == code
    assert message in capfd.readouterr().err


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ("/help\n", "/save FILE"),
        ("/sing\n", "/sing: no such command"),
        ("/save\n", "/save FILE"),
        ("Say it.\n/save /no/such/folder/file\n", "cannot be written"),
    ],
)
def test_what_is_typed_is_obeyed_or_told_of(
    chat: Chat, folders: dict[str, Path], capfd: pytest.CaptureFixture[str], lines: str, told: str
) -> None:
    outcome = chat(folders["text"], f"{lines}Say it.\n/quit\nnot asked any more\n", typed=True)
    assert outcome.code == 0
    assert outcome.text.endswith(chat(folders["text"], "Say it.\n").text)
    capfd.readouterr()
    chat(folders["text"], lines, typed=True)
    assert told in capfd.readouterr().err


def test_a_pipe_commands_nothing(chat: Chat, folders: dict[str, Path], tmp_path: Path) -> None:
    """Its lines may be anybody's text."""
    file = tmp_path / "stolen"
    lines = ["Say it.", f"/save {file}", "/etc/passwd is what?", "/reset", "/quit", "Say it."]
    outcome = chat(folders["text"], "\n".join(lines) + "\n")
    assert outcome.code == 0
    assert outcome.text == "".join(chat(folders["text"], f"{line}\n").text for line in lines)
    assert not file.exists()


def test_an_answer_steers_no_terminal_and_reaches_a_file_as_it_is(
    chat: Chat, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "red\x1b[31m\x1b]0;owned\x07 and\tnew\nlines\u202e"
    monkeypatch.setattr("llm_finetune.generation.detokenization.Answer.pieces", lambda *_: iter(said))
    assert chat(folders["text"], "Say it.\n").text == f"{said}\n"
    monkeypatch.setattr("llm_finetune.chat.terminal.at_terminal", lambda: True)
    shown = r"red\x1b[31m\x1b]0;owned\x07 and" + "\tnew\nlines" + r"\u202e"
    assert chat(folders["text"], "Say it.\n").text == f"{shown}\n"


def test_a_text_model_has_no_system_turn(
    chat: Chat, folders: dict[str, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    assert chat(folders["text"], "Say it.\n", "--system", "Sing.").code == 2
    assert "plain text" in capfd.readouterr().err


def test_bytes_that_are_no_text_do_not_end_the_chat(chat: Chat, folders: dict[str, Path]) -> None:
    outcome = chat(folders["text"], b"caf\xe9\r\nSay it.\r\n")
    assert outcome.code == 0
    assert outcome.text == chat(folders["text"], "caf\N{REPLACEMENT CHARACTER}\nSay it.\n").text


def test_ctrl_c_stops_the_answer_and_ctrl_d_the_chat(tuned: Callable[..., Path], tmp_path: Path) -> None:
    """At a real terminal, with an answer that would take minutes."""
    folder = tuned("alpaca", max_position_embeddings=10**6)
    file = tmp_path / "said.jsonl"
    master, slave = os.openpty()
    options = ["--temperature", "0", "--max-new-tokens", str(10**6)]
    process = subprocess.Popen(
        [sys.executable, str(SCRIPTS / "finetune.py"), "chat", str(folder), *options],
        preexec_fn=lambda: os.login_tty(slave),
        env={**os.environ, "TERM": "dumb"},
    )
    os.close(slave)
    terminal = Terminal(master)
    terminal.read_until(b"> ")
    terminal.write(b"Say it.\n")
    terminal.read_until(b"Say it.\r\n")
    terminal.read(at_least=20)
    terminal.write(b"\x03")
    terminal.read_until(b"\r\n> ")
    terminal.write(b"/sing\n")
    terminal.read_until(b"no such command")
    terminal.read_until(b"> ")
    terminal.write(f"/save {file}\n".encode())
    terminal.read_until(b"added to")
    terminal.read_until(b"> ")
    terminal.write(b"\x04")
    assert process.wait(timeout=60) == 0
    os.close(master)
    (record,) = saved(file)
    assert record["messages"][0] == {"role": "user", "content": "Say it."}
    assert record["messages"][1]["content"]


class Terminal:
    """The person's side of a pseudo-terminal."""

    def __init__(self, master: int) -> None:
        self.master = master
        self.unread = b""

    def write(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def read_until(self, wanted: bytes) -> None:
        while wanted not in self.unread:
            self.unread += os.read(self.master, 4096)
        self.unread = self.unread.partition(wanted)[2]

    def read(self, at_least: int) -> None:
        while len(self.unread) < at_least:
            self.unread += os.read(self.master, 4096)
        self.unread = b""

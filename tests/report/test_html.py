"""The report, read as a browser reads it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from llm_finetune.config import load
from llm_finetune.report import charts
from llm_finetune.report.html import make_report
from llm_finetune.runtime import formatting

NASTY = "</script><b>bold</b> & \"double\" 'single' {{ 7 * 7 }}\nnext line"
VOID = {"meta", "link", "br"}
SPEED = {
    "prefill_tokens_per_second": 412.3,
    "decode_tokens_per_second": 37.4,
    "latency_ms": {"p50": 26.1, "p90": 31.0, "p99": 60.2},
    "peak_memory_bytes": 2_100_000_000,
    "weight_bytes_per_token": 1_400_000_000,
    "memory_bandwidth_bytes_per_second": 43.1e9,
    "bandwidth_share": 0.61,
    "instances": 1,
    "cores_per_instance": 2,
    "cores": [[0, 1]],
    "threads": 2,
    "dtype": "bfloat16",
    "kernel": "torch",
}


def results() -> dict[str, Any]:
    """What a run with all stages leaves, by file."""
    settings = load([], set_json=[f"distributed.train.promptWithInput={json.dumps(NASTY)}"]).settings
    history = [
        {
            "step": step,
            "loss": 4 - step / 50,
            "learning_rate": 1e-4 * (100 - step),
            "tokens_per_second": 900.0,
        }
        for step in range(1, 101)
    ]
    history += [{"step": step, "eval_loss": 4 - step / 60} for step in (50, 100)]
    return {
        "run.json": {"settings": settings.to_values(), "versions": {"torch": "2.13.0"}, "stages": {}},
        "train_results.json": {
            "train_loss": 3.0, "steps": 100, "seconds": 128.4,
            "tokens_per_second": 895.9, "peak_memory_bytes": 1_228_996_608,
        },
        "train_history.json": history,
        "eval_results.json": {
            "eval_loss": 3.36, "perplexity": 28.67,
            "base": {"loss": 4.25, "perplexity": 69.82, "rouge_l": 0.071, "exact_match": 0.0},
            "tuned": {"loss": 3.36, "perplexity": 28.67, "rouge_l": 0.163, "exact_match": 0.125},
            "samples": [{"prompt": NASTY, "expected": "yes", "base": "", "tuned": "<i>no</i>"}],
        },
        "quantize_results.json": {
            "algorithm": "GPTQ", "bits": 4, "group_size": 32, "scheme": "sym", "kernel": "torch int4",
            "perplexity": 29.31, "size_bytes": 412_345, "unquantized_size_bytes": 1_043_211, "seconds": 1.43,
        },
        "benchmark_results.json": {"tuned": SPEED, "quantized": {**SPEED, "decode_tokens_per_second": 101.2}},
    }  # fmt: skip


@dataclass
class Element:
    tag: str
    attributes: dict[str, str]
    children: list[Element | str] = field(default_factory=list)

    def all(self, tag: str, **attributes: str) -> list[Element]:
        inner = [found for child in self.elements() for found in child.all(tag, **attributes)]
        own = self.tag == tag and attributes.items() <= self.attributes.items()
        return [self, *inner] if own else inner

    def elements(self) -> list[Element]:
        return [child for child in self.children if isinstance(child, Element)]

    @property
    def text(self) -> str:
        return "".join(child if isinstance(child, str) else child.text for child in self.children)


class Page(HTMLParser):
    """The page as a tree; every element that is opened must be closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.root = Element("page", {})
        self.path = [self.root]
        self.feed(html)
        assert self.path == [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.path[-1].children.append(element)
        if tag not in VOID:
            self.path.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.path[-1].children.append(Element(tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.path.pop().tag == tag

    def handle_data(self, data: str) -> None:
        self.path[-1].children.append(data)


def page_of(folder: Path, files: dict[str, Any]) -> Element:
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    make_report(folder).write(folder)
    return Page((folder / "report.html").read_text()).root


@pytest.fixture
def page(tmp_path: Path) -> Element:
    return page_of(tmp_path, results())


def test_all_that_was_measured_is_on_the_page(page: Element) -> None:
    headings = [heading.text for heading in page.all("h2")]
    assert headings == ["Training", "Base against tuned", "Tuned against quantized", "Answers", "Settings"]
    text = " ".join(page.text.split())
    for said in ("69.82 → 28.67", "2 min 8 s", "1.04 MB → 412 kB", "37.4 → 101.2 tokens/s", "GPTQ, 4 bits"):
        assert said in text
    for said in ("12.5%", "29.31", "torch int4", "read 43.1 GB/s", "2.13.0"):
        assert said in text


def test_what_the_data_says_stays_text(page: Element) -> None:
    assert page.all("p", **{"class": "prompt"})[0].text == NASTY
    assert NASTY in [cell.text for cell in page.all("td")]
    assert "<i>no</i>" in [answer.text for answer in page.all("dd")]
    assert not page.all("script")
    assert not page.all("b")
    assert not page.all("i")


def test_the_page_loads_nothing(page: Element, tmp_path: Path) -> None:
    loading = {"src", "href", "srcset", "data", "action", "poster", "xlink:href"}
    found = {
        element.attributes[name]
        for tag in {tag.tag for tag in walk(page)}
        for element in page.all(tag)
        for name in loading & element.attributes.keys()
    }
    assert found == {"data:,"}
    style = "".join(sheet.text for sheet in page.all("style"))
    assert style
    assert "url(" not in style
    assert "@import" not in style
    (policy,) = page.all("meta", **{"http-equiv": "Content-Security-Policy"})
    assert policy.attributes["content"].startswith("default-src 'none'")


def walk(element: Element) -> list[Element]:
    return [element, *(below for child in element.elements() for below in walk(child))]


def test_curves_and_tables_can_be_heard(page: Element) -> None:
    plots = page.all("div", role="img")
    assert [plot.attributes["aria-label"].split(":")[0] for plot in plots] == [
        "Loss", "Learning rate", "Tokens a second",
    ]  # fmt: skip
    assert "validation from 3.167 at step 50 to 2.333 at step 100" in plots[0].attributes["aria-label"]
    for table in page.all("table"):
        columns = len(table.all("th", scope="col")) + len(table.all("thead")[0].all("td"))
        for row in table.all("tbody")[0].all("tr"):
            assert row.elements()[0].attributes["scope"] == "row"
            assert len(row.elements()) == columns


def test_only_settings_that_differ_are_shown_unfolded(page: Element) -> None:
    changed, everything = page.all("table", **{"class": "settings"})
    assert [row.text for row in changed.all("th", scope="row")] == ["train.promptWithInput"]
    assert len(everything.all("tr")) > 50
    assert page.all("details")[0].all("table") == [everything]


@pytest.mark.parametrize("absent", [*results(), "all"])
def test_missing_parts_are_not_shown(tmp_path: Path, absent: str) -> None:
    parts = {
        "run.json": "Settings",
        "train_history.json": "Training",
        "eval_results.json": "Answers",
        "quantize_results.json": "Tuned against quantized",
    }
    there = {name: content for name, content in results().items() if absent not in (name, "all")}
    page = page_of(tmp_path, there)
    headings = [heading.text for heading in page.all("h2")]
    for name, heading in parts.items():
        assert (heading in headings) == (name in there)
    assert "None" not in page.text


def test_a_model_that_was_not_evaluated_or_benchmarked_has_no_column(tmp_path: Path) -> None:
    files = results()
    files["eval_results.json"] |= {"base": None}
    files["benchmark_results.json"].pop("quantized")
    del files["quantize_results.json"]
    tables = page_of(tmp_path, files).all("table", **{"class": "compared"})
    assert [[name.text for name in table.all("th", scope="col")] for table in tables] == [
        ["tuned"],
        ["tuned"],
    ]


def test_the_page_is_replaced_whole(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("old")
    page_of(tmp_path, results())
    assert (tmp_path / "report.html").read_text() != "old"
    assert sorted(file.name for file in tmp_path.iterdir() if file.name not in results()) == ["report.html"]


def test_a_loss_that_is_no_number_is_said(tmp_path: Path) -> None:
    files = results()
    files["train_history.json"][40]["loss"] = float("nan")
    text = page_of(tmp_path, files).all("figure")[0].text
    assert "1 value is not a number" in text
    assert "nan" not in text


@pytest.mark.parametrize("values", [[3.0], [2.0, 2.0], [0.0, 0.0], [1e-7, 3e-7], [-4.0, 1e9], [5.0] * 20_000])
def test_curves_stay_within_their_plot(values: list[float]) -> None:
    drawn = charts.chart("Loss", {"training": list(enumerate(values))}, mean=True)
    assert drawn is not None
    for line in drawn.lines:
        places = [tuple(map(float, place.split())) for place in line.path[1:].split("L")]
        assert 1 <= len(places) <= charts.MOST_POINTS
        assert all(0 <= along <= 100 for place in places for along in place)
    assert all(-1e-9 <= tick.at <= 100 + 1e-9 for tick in (*drawn.steps, *drawn.values))
    assert len(drawn.values) >= 2
    labels = [tick.label for tick in drawn.values]
    assert len(set(labels)) == len(labels)


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (formatting.number(28.6706), "28.67"),
        (formatting.number(12345.6), "12,346"),
        (formatting.number(1e300), "1e+300"),
        (formatting.size(999), "999 bytes"),
        (formatting.size(999_900), "1 MB"),
        (formatting.size(5.4e12), "5.4 TB"),
        (formatting.duration(7.26), "7.3 s"),
        (formatting.duration(59.7), "1 min 0 s"),
        (formatting.duration(3 * 3600 + 61), "3 h 1 min"),
        (formatting.percent(0.125), "12.5%"),
        (formatting.setting(["q_proj", "v_proj"]), "q_proj v_proj"),
        (formatting.setting(None), "null"),
    ],
)
def test_figures_are_short(shown: str, expected: str) -> None:
    assert shown == expected

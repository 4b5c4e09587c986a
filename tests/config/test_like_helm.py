"""The merged values are those of `helm template` on the same files and options."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from throwaway_chart import HELM, Chart

from llm_finetune.config.helm.merge import OPTIONS, Values, merge
from llm_finetune.config.helm.yaml import read_yaml

pytestmark = pytest.mark.skipif(HELM is None, reason="needs helm")

CHART = """
a: {b: 1, e: null, l: [1, 2], m: {x: 1, z: 2}, s: text}
top: 1
none: null
"""


class Both:
    """Asks Helm and the project the same."""

    def __init__(self, folder: Path, chart: str = CHART) -> None:
        self.folder = folder
        self.beneath = read_yaml(chart.encode()).values
        self.chart = Chart.make(folder / "chart", chart)

    def ask(self, files: list[str | bytes], options: list[tuple[str, str]]) -> tuple[Any, Any]:
        """The merged values of Helm and ours, None where refused."""
        ours = self.ours(files, options)
        arguments = [part for path in self.write(files) for part in ("-f", str(path))]
        arguments += [part for option in options for part in option]
        return self.chart.values(*arguments), None if ours.problems else as_floats(ours.tree)

    def ours(self, files: list[str | bytes], options: list[tuple[str, str]]) -> Values:
        texts = {name: [text for option, text in options if option == name] for name in OPTIONS}
        return merge(self.beneath, self.write(files), *texts.values())

    def write(self, files: list[str | bytes]) -> list[Path]:
        paths = [self.folder / f"{n}.yaml" for n in range(len(files))]
        for path, text in zip(paths, files, strict=True):
            path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return paths


def as_floats(tree: Any) -> Any:
    """The tree after JSON, with every number a float, as Helm's are."""
    return json.loads(json.dumps(tree), parse_int=float)


@pytest.fixture
def both(tmp_path: Path) -> Both:
    return Both(tmp_path)


MULTIPLY = [
    "b0: &b0 [x,x,x,x,x,x,x,x,x,x]",
    *(f"b{n}: &b{n} [" + ",".join([f"*b{n - 1}"] * 10) + "]" for n in range(1, 9)),
]
FILES = {
    "anchors that multiply": ["\n".join(MULTIPLY)],
    "anchors that multiply a little": ["\n".join(MULTIPLY[:3])],
    "anchors that multiply just too much": ["\n".join(MULTIPLY[:4])],
    "many aliases of little": ["b: &b 1\nl: [" + "*b," * 2000 + "]"],
    "merge deep": ["a: {b: 2, m: {x: 5}}", "a: {m: {z: 6, w: 7}}"],
    "lists replace": ["a: {l: [9]}"],
    "null removes": ["a: {b: null, m: null}", "none: null"],
    "null then a value": ["a: {b: null}", "a: {b: 3}"],
    "a value then null": ["a: {b: 3, new: 1}", "a: {b: null, new: null}"],
    "null of a new key stays": ["new: null\na: {m: {new: null}}"],
    "group over a scalar": ["a: {b: {c: 1}}", "top: {c: 1}"],
    "scalar over a group": ["a: {m: 5}"],
    "scalar over a whole section": ["a: 5"],
    "group over null": ["a: {e: {k: null}}", "none: {k: 1}"],
    "empty": ["", "# only a comment", "---"],
    "null document": ["null", "~"],
    "list document": ["- a"],
    "text document": ["hello"],
    "several documents": ["a: {b: 5}\n---\na: {b: 6}"],
    "a broken second document": ["a: {b: 5}\n---\na: ["],
    "broken": ["a: [1"],
    "tab": ["a:\n\tb: 1"],
    "twice the same key": ["top: 2\ntop: 3", "a: {b: 1}\na: {l: []}"],
    "keys that are no text": ["1: a\ntrue: b\non: c\n0x10: d\n2001-01-01: e"],
    "null as a key": ["null: a"],
    "list as a key": ["[1, 2]: a"],
    "merge key": ["d: &d {b: 7, x: 1}\ne: {<<: *d, b: 8}\nf: {b: 8, <<: *d}\na: {<<: *d}"],
    "merge keys in a list": ["d: &d {b: 7}\ne: &e {b: 8, c: 9}\nf: {<<: [*d, *e]}"],
    "merge of a scalar": ["f: {<<: 1}"],
    "quoted merge key": ['f: {"<<": 1}'],
    "alias": ["d: &d [1, {x: 2}]\ne: *d"],
    "alias inside its own anchor": ["d: &d [*d]"],
    "unknown alias": ["d: *x"],
    "tags": ["x: !!str 5\ny: !!float 3\nz: !!int 0x10\nw: !!null ''\nv: !other 5\nu: !!bool yes"],
    "tag that does not fit": ["x: !!int text"],
    "tag on a quoted value": ["x: !!int '5'"],
    "not a number": ["x: .nan"],
    "infinite": ["x: -.inf"],
    "quoted": ['x: \'null\'\ny: "2e-4"\nz: "yes"\nw: |\n  5\nv: >-\n  true'],
    "times and base 60": ["x: 2001-12-14t21:59:43.10-05:00\ny: 2001-01-01\nz: 1:30\nw: 190:20:30"],
    "no UTF-8": [b"x: \xff\xfe\xff"],
    "UTF-16": ["x: 5".encode("utf-16")],
    "byte order mark": [b"\xef\xbb\xbfx: 5"],
    "control character": [b"x: \x01"],
    "large": ["x: 9007199254740993\ny: 18446744073709551615\nz: 123456789012345678901234567890\nw: -1e22"],
    "too large": ["x: 1e999\ny: 0xFFFFFFFFFFFFFFFFFF\nz: 1e-999"],
}


@pytest.mark.parametrize("name", FILES)
def test_files(both: Both, name: str) -> None:
    helm, ours = both.ask(list(FILES[name]), [])
    assert ours == helm


# Each stands for itself: @ is a key that no other case has, so that Helm is called once for all.
SET = r"""
@.top=2 | @.a.b=null | @.a.m=null | @.a.e=1 | @.a.m.x=7,@.a.m.z=8 | @.a.l[1]=5 | @.a.l={x,y} | @.a.l={}
@.a.l={1,null,0x,true} | @.w={a},@.b=1 | @.w[0][1]=2 | @.w[0].x.y=1 | @.w[1].b=1,@.w[0].c=2
@.w[0]=1,@.w[0].x=1 | @.w[0].a=1,@.w[0].b=2 | @.w[+1]=1 | @.w[0] | @.w[0]= | @.w[0].b= | @.w[0][0].b=
@.w[0].=1 | @.w[0]=a,@.w[2]=c | @.w= | @.w=, | @.w=1, | @.w.b= | @.a\.b=1 | @.w=a\,b,@.e=c | @.w=a\
@.w=\{a} | @.w={a\,b,c} | @.w=TRUE | @.w=NULL | @.w=+5 | @.w=-5 | @.w=+0 | @.w=-0 | @.w=0 | @.w=00 | @.w=007
@.w=1_0 | @.w=1.5 | @.w=2e-4 | @.w=0x10 | @.w=9223372036854775807 | @.w=9223372036854775808
@.w=-9223372036854775808 | @.w= 1 | @.w = 1 | @.w="x" | @.w=a=b | @.w=a b | @.w=[1] | @.w=ünï | @.top.x=1
@.a.b.c=1 | @.a.s.t=1 | @.none.x=1 | @.a=1 | @.a={1} | @.a[0]=1
"""
SET_JSON = r"""
@.w= | @.w=,@.e=1 | @.w={"a":1.0},@.e=[1] | @.w=1 @.e=2 | @.w=1 , | @.w[0]={"x":null} | @.w[0]= | @.w[0].b=1
@.w[0].b= | @.w.x="s" | @.w={"a":1,"a":2} | @.w=12345678901234567890 | @.w="a,b",@.e=1e3
@.a={"b":null,"m":{"x":null}} | @.a.m={"z":1} | @.a.l=[3] | @.a.b=null | @.w="\u00e9" | @.a\.b=1
"""
SET_STRING = "@.w=1 | @.w=null | @.w={1,true} | @.w= | @.w[1]=0 | @.a.b=2,@.a.m.x="
# Alone, since Helm stops at the first option that it refuses.
ALONE = {
    "--set": r"""
w={a}b | w={a, | w[-1]=1 | w[65537]=1 | w[0_1]=1 | w[x]=1 | w[0 | w[0]a=1 | [0]=1 | w.x=1,w[0]=1 | w=1,w.x=2
w | w\ | w[0]=a,w.x=1 | w[0]=1,w[0][0]=2 | w=1,, | , | =5 | .=5 | .b=1 | a..b=1 | w.=1 | w.=1,e=2 | a.=1
w.x={a,{b}}
""",
    "--set-json": """w=NaN | w=1e400 | w=01 | w=[1 | w=1. | w=1e=2 | w=nul | {"w":1} | w | w="a""",
    "--set-string": "a.b",
}


def cases(text: str) -> list[str]:
    return [case for line in text.strip("\n").splitlines() for case in line.split(" | ")]


@pytest.mark.parametrize(
    ("option", "texts"), [("--set-json", SET_JSON), ("--set", SET), ("--set-string", SET_STRING)]
)
def test_options(tmp_path: Path, option: str, texts: str) -> None:
    keyed = {f"case{n}": text for n, text in enumerate(cases(texts))}
    both = Both(tmp_path, json.dumps(dict.fromkeys(keyed, read_yaml(CHART.encode()).values)))
    helm, ours = both.ask([], [(option, text.replace("@", key)) for key, text in keyed.items()])
    assert {text for key, text in keyed.items() if ours[key] != helm[key]} == set()
    assert ours == helm


@pytest.mark.parametrize(
    ("option", "text"), [(option, text) for option, texts in ALONE.items() for text in cases(texts)]
)
def test_odd_options(both: Both, option: str, text: str) -> None:
    helm, ours = both.ask([], [(option, text)])
    assert ours == helm


def test_order_is_helms_whatever_the_command_line_says(both: Both) -> None:
    options = [
        ("--set-string", "a.b=string"),
        ("--set", "a.b=2,a.m.x=3,a.l[0]=4"),
        ("--set-json", 'a={"b":"json","m":{"x":"json","z":"json"},"l":["json","json"]}'),
        ("--set", "a.m.x=5"),
    ]
    helm, ours = both.ask(["a: {b: file, s: file}"], options)
    assert ours == helm
    assert ours["a"]["b"] == "string"
    assert ours["a"]["m"] == {"x": 5, "z": "json"}


def test_options_see_files_but_not_the_chart(both: Both) -> None:
    helm, ours = both.ask(["w: [{x: 1}, {x: 2}]"], [("--set", "w[1].y=3,a.l[1]=9")])
    assert ours == helm
    assert ours["w"] == [{"x": 1}, {"x": 2, "y": 3}]
    assert ours["a"]["l"] == [None, 9]


def test_scalars_mean_what_they_mean_to_helm(both: Both) -> None:
    """Thousands of unquoted scalars, made of the characters that numbers, booleans and nulls are made of."""
    pick = random.Random(20)
    words = ["yes", "No", "oN", "null", "~", "0x", "0b", "0o", "1e", "inf", ".", "_", "-", "+", "e", "E", "T"]
    pieces = [*words, *"0123456789", "00", "17", "08", "1_0", "2001-01-01", "1e999"]
    scalars = ["".join(pick.choices(pieces, k=pick.randint(1, 5))) for _ in range(6000)]
    scalars = [scalar for scalar in scalars if scalar not in ("-", "---")]
    helm, ours = both.ask(["w:\n" + "".join(f"- {scalar}\n" for scalar in scalars)], [])
    read = list(zip(scalars, helm["w"], ours["w"], strict=True))
    assert [case for case in read if case[1] != case[2]] == []
    # 1 and true are equal in Python, but not here.
    assert [case for case in read if isinstance(case[1], bool) != isinstance(case[2], bool)] == []


def random_tree(pick: random.Random, depth: int) -> Any:
    if depth == 0 or pick.random() < 0.3:
        return pick.choice([None, True, 0, 1, 2.5, "text", "", [], [1, {"a": None}], {}])
    return {pick.choice("abcd"): random_tree(pick, depth - 1) for _ in range(pick.randint(0, 4))}


def random_set(pick: random.Random, case: str) -> str:
    path = case + "".join(
        pick.choice([".a", ".b", ".c", ".d", "[0]", "[1]"]) for _ in range(pick.randint(1, 4))
    )
    return f"{path}={pick.choice(['1', 'null', 'true', 'x', '', '{1,b}', '0.5', 'a,' + case + '.a=2'])}"


def test_random_merges(tmp_path: Path) -> None:
    """Two files, then options, over a chart: many cases in one call of Helm, each under a key of its own."""
    pick = random.Random(7)
    names = [f"case{n}" for n in range(300)]
    chart, *files = (json.dumps({name: random_tree(pick, 3) for name in names}) for _ in range(3))
    both = Both(tmp_path, chart)
    options = [("--set", random_set(pick, name)) for name in names for _ in range(2)]
    # Helm stops at the first option that it refuses, so those are taken out, and a few are asked alone.
    refused: list[tuple[str, str]] = []
    while problems := both.ours(files, options).problems:
        refused += [option for option in options if any(" ".join(option) + ":" in line for line in problems)]
        options = [option for option in options if option not in refused]
    assert len(options) > 100
    helm, ours = both.ask(files, options)
    assert {name for name in names if ours.get(name) != helm.get(name)} == set()
    assert ours == helm
    for option in refused[:20]:
        helm, ours = both.ask(files, [option])
        assert ours == helm

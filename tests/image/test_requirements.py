"""What is installed is what was pinned: by hash, each package from one index, whatever an index hands out."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
REQUIREMENTS = CHECKOUT / "requirements"
LOCKS = sorted(REQUIREMENTS.glob("*.txt"))
HASH = r" \\\n    --hash=sha256:[0-9a-f]{64}"


@pytest.mark.parametrize("lock", LOCKS, ids=[lock.stem for lock in LOCKS])
def test_every_package_has_one_version_and_hashes_and_no_file_names_an_index(lock: Path) -> None:
    text = lock.read_text()
    packages = re.findall(rf"^[\w.-]+==\S+(?: ; [^\\\n]*[^\\\s])?(?:{HASH})+\n", text, re.MULTILINE)
    assert "".join(packages) == text
    assert packages


@pytest.mark.parametrize("stack", ["upstream", "intel"])
def test_the_index_of_cpu_wheels_has_the_same_torch(stack: str) -> None:
    (version,) = re.findall(r"^torch==(\S+)", (REQUIREMENTS / f"{stack}.in").read_text(), re.MULTILINE)
    for name in (stack, f"{stack}-cpu"):
        (pinned,) = re.findall(r"^torch==(\S+)", (REQUIREMENTS / f"{name}.txt").read_text(), re.MULTILINE)
        assert pinned == version + ("+cpu" if name.endswith("cpu") else "")


def test_an_image_is_made_of_what_was_pinned() -> None:
    dockerfile = (CHECKOUT / "Dockerfile").read_text().replace("\\\n", "")
    assert re.search(r"^ARG PYTHON_IMAGE=\S+@sha256:[0-9a-f]{64}$", dockerfile, re.MULTILINE)
    for command in re.findall(r"pip (?:\S+ \S+ )?install ([^&\n]*)", dockerfile):
        assert "--require-hashes" in command or "--no-build-isolation --editable ." in command


def test_a_wheel_that_is_another_than_the_pinned_one_is_not_installed(tmp_path: Path) -> None:
    uv = Path(sys.executable).with_name("uv")
    if not uv.exists():
        pytest.skip("needs uv beside the interpreter")
    (tmp_path / "torch").mkdir()
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    (version,) = re.findall(r"torch==(\S+)", (REQUIREMENTS / "upstream-cpu.txt").read_text())
    wheel = f"torch-{version}-{python}-{python}-linux_x86_64.whl"
    with zipfile.ZipFile(tmp_path / "torch" / wheel, "w") as archive:
        about = f"torch-{version}.dist-info"
        archive.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\n")
        archive.writestr(f"{about}/RECORD", "")
    (tmp_path / "torch" / "index.html").write_text(f'<a href="{wheel.replace("+", "%2B")}">{wheel}</a>')
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    environment = tmp_path / "venv"
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        variables = {
            **os.environ,
            "PATH": f"{uv.parent}:{os.environ['PATH']}",
            "VIRTUAL_ENV": str(environment),
            "TORCH_INDEX": f"http://127.0.0.1:{server.server_port}",
            "no_proxy": "127.0.0.1",
            "NO_PROXY": "127.0.0.1",
        }
        subprocess.run([uv, "venv", "--quiet", environment, "--python", sys.executable], check=True)
        done = subprocess.run(
            ["sh", REQUIREMENTS / "install.sh", "upstream"],
            env=variables,
            capture_output=True,
            text=True,
            check=False,
        )
        server.shutdown()
    assert done.returncode
    assert "ash mismatch" in done.stderr
    assert not list(environment.glob("lib/*/site-packages/torch*"))

"""What real Helm makes of values files and options."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HELM = shutil.which("helm", path=str(Path(sys.executable).parent)) or shutil.which("helm")


@dataclass(frozen=True)
class Chart:
    """A throw-away chart whose only template prints `.Values` as JSON."""

    folder: Path

    @classmethod
    def make(cls, folder: Path, values: str, schema: str | None = None) -> Chart:
        (folder / "templates").mkdir(parents=True)
        (folder / "Chart.yaml").write_text("apiVersion: v2\nname: throw-away\nversion: 0.1.0\n")
        (folder / "templates" / "v.yaml").write_text("{{ .Values | toJson }}\n")
        (folder / "values.yaml").write_text(values)
        if schema is not None:
            (folder / "values.schema.json").write_text(schema)
        return cls(folder)

    def values(self, *arguments: str) -> dict[str, Any] | None:
        """The merged values, every number a float; None where Helm refuses the arguments."""
        command = [str(HELM), "template", str(self.folder), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        return None if done.returncode else json.loads(done.stdout.split("v.yaml\n", 1)[1], parse_int=float)

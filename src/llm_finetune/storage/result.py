"""A file of results: its name, its schema, its writer and its reader in one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from llm_finetune.errors import OutputError, UserError
from llm_finetune.storage.json_files import as_text, save_text


class Result(BaseModel):
    """What one step of a job leaves in a file for the next, for the report and for the user.

    The fields that were set are the file's keys, in the order of their declaration. A reader demands those
    without a default and ignores keys that it does not know: another version may have written the file.

    Attributes:
        file_name: a public interface.
        former_name: the file's name in earlier versions; still read.
        error: what `read` raises where the file is broken.
        remedy: what the error adds for the user to do; empty: nothing.
    """

    model_config = ConfigDict(strict=True, frozen=True)

    file_name: ClassVar[str]
    former_name: ClassVar[str | None] = None
    error: ClassVar[type[UserError]] = OutputError
    remedy: ClassVar[str] = "; delete it and rerun the same command"

    def to_text(self) -> str:
        """The content of the file."""
        return as_text(self.to_json())

    def to_json(self) -> Any:
        """The content as `json` writes it."""
        return self.model_dump(exclude_unset=True)

    @classmethod
    def from_text(cls, text: str) -> Self:
        """The content read again. Raises ValueError where it is not what it should be."""
        return cls.model_validate(json.loads(text))

    @classmethod
    def path_in(cls, folder: Path) -> Path:
        """The file in a folder; under its former name where it stands there under that alone."""
        file = folder / cls.file_name
        if cls.former_name and not file.is_file() and (folder / cls.former_name).is_file():
            return folder / cls.former_name
        return file

    def write(self, folder: Path) -> None:
        """Writes the file, whole or not at all. Raises OutputError where it cannot."""
        save_text(folder / self.file_name, self.to_text())

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """What an earlier step left in the folder; None where it left nothing.

        Raises:
            UserError: of the class `error`; the file is broken: where in it, what was found and expected.
        """
        try:
            return cls.load(folder)
        except ValueError as error:
            raise cls.error(f"{cls.path_in(folder)}: {error}{cls.remedy}") from error

    @classmethod
    def load(cls, folder: Path) -> Self | None:
        """The same for callers that have another remedy. Raises ValueError where the file is broken."""
        file = cls.path_in(folder)
        try:
            if not file.is_file():
                return None
            return cls.from_text(file.read_text(encoding="utf-8"))
        except ValidationError as error:
            raise ValueError(_first_problem(error)) from error
        except (OSError, RecursionError, ValueError) as error:
            raise ValueError(f"cannot be read ({error})") from error


def _first_problem(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"])) or "its content"
    if first["type"] == "missing":
        return f"{where} is missing"
    expected = first["msg"].removeprefix("Input should be ")
    if first["type"] == "model_type":
        expected = "a valid dictionary"
    return f"{where}: found {str(first['input'])[:60]!r}, expected {expected}"

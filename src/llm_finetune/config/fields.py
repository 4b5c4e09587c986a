"""A key of the settings and a section of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    TypeAdapter,
    ValidationError,
    ValidatorFunctionWrapHandler,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import CoreSchema, core_schema

from llm_finetune.config import wording


@dataclass(frozen=True)
class Key:
    """A key of a section, beside its type in `Annotated`.

    Args:
        default: what the chart's values.yaml says. A key that was removed does not get it back.
        description: one sentence for the user.
        none: what an absent key means; without it, the key must be there.
        was: the path of an earlier name in `distributed`, which still works; see `renamed`.
        was_values: earlier words for some of its values, and the words for them now.
        type: what the value may be and what holds for it, from the field.
    """

    default: Any
    description: str
    none: str | None = None
    was: str | None = None
    was_values: Mapping[str, str] | None = None
    type: tuple[Any, ...] = ()

    def read(self, value: Any) -> Any:
        """Return the value as the program uses it.

        Raises:
            ValueError: saying what was found and what was expected.
        """
        return self._adapter.validate_python(value)

    @cached_property
    def schema(self) -> dict[str, Any]:
        """The JSON schema of its values (draft-07)."""
        return self._adapter.json_schema()

    @property
    def kind(self) -> str:
        """The word for its type in tables."""
        return wording.kind(self.schema)

    @property
    def meaning(self) -> str:
        """All that a table says of it: the description, what it takes, what null means."""
        allowed = wording.expected(self.schema)
        parts = [self.description]
        if allowed not in ("text", "true or false"):
            parts.append(f"{allowed[0].upper()}{allowed[1:]}.")
        if self.none is not None:
            parts.append(f"Null: {self.none}.")
        return " ".join(parts)

    @cached_property
    def _adapter(self) -> TypeAdapter[Any]:
        checked: Any = Annotated[(*self.type, self)]
        return TypeAdapter(checked, config=ConfigDict(strict=True))

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        inner = handler(source)
        return core_schema.no_info_wrap_validator_function(partial(self._checked, inner), inner)

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        plain = handler(schema)
        alternatives = [one for one in plain.get("anyOf", [plain]) if one != {"type": "null"}]
        if self.was_values:
            alternatives.append({"enum": list(self.was_values)})
        if self.none is not None:
            alternatives.append({"enum": [None, ""]})
        return alternatives[0] if len(alternatives) == 1 else {"anyOf": alternatives}

    def _checked(self, inner: CoreSchema, value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        """The value, or an error in our words for whatever pydantic says of it."""
        if self.none is not None and value in (None, ""):
            return None
        try:
            return handler(value)
        except ValidationError as error:
            expected = wording.expected(GenerateJsonSchema().generate(inner))
            found = "removed (null)" if value is None else f"found {wording.shown(value)}"
            instead = "" if self.none is None else f", or null ({self.none})"
            hint = "" if value is None else wording.hint(error.errors(include_url=False))
            raise ValueError(f"{found}, expected {expected}{instead}{hint}") from None


class Section(BaseModel):
    """A group of keys. Keys are camelCase in values files and snake_case here; an absent key is None."""

    model_config = ConfigDict(alias_generator=to_camel, extra="forbid", frozen=True, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _absent_is_none(cls, tree: Any) -> Any:
        return {**dict.fromkeys(cls.entries()), **tree} if isinstance(tree, dict) else tree

    @classmethod
    @cache
    def entries(cls) -> dict[str, Key | type[Section]]:
        """The keys and the sections in this one, by their name in values files."""
        entries: dict[str, Any] = {}
        for name, field in cls.model_fields.items():
            entries[to_camel(name)] = field.annotation
            if field.metadata:
                *constraints, key = field.metadata
                entries[to_camel(name)] = replace(key, type=(field.annotation, *constraints))
        return entries


def keys(section: type[Section], above: str = "") -> Iterator[tuple[str, Key]]:
    """The keys of a section and of the sections in it, by their dotted paths."""
    for name, entry in section.entries().items():
        if isinstance(entry, Key):
            yield above + name, entry
        else:
            yield from keys(entry, f"{above}{name}.")

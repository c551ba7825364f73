"""From a `Config` back to a document: kebab-case keys, durations and sizes in their shortest form (SPEC 1)."""

# What is walked here holds anything, and pyright is told little about it.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownMemberType=false

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, get_args, get_origin

from attrs import fields, has

from trio_wsout.config.field_types import field_type_of
from trio_wsout.config.secret import MASK, SENSITIVE_HEADERS, Secret
from trio_wsout.config.sections import NONE, Heartbeat
from trio_wsout.config.validation import unusable

if TYPE_CHECKING:
    from trio_wsout.config.sections import Config

__all__ = ["document_value", "dump_config"]


def dump_config(config: Config, *, masked: bool = False) -> dict[str, Any]:
    """The document of a configuration: every field that its mode uses and that is there.

    Args:
        config: What to dump.
        masked: Put ``***`` in the place of every secret. Without it, loading the result gives an
            equal Config.
    """
    dumped = _section(config, masked=masked)
    for name in unusable(config.mode, link=config.url is not None):
        *above, key = name.replace("_", "-").split(".")
        holder: Any = dumped.get(above[0], {}) if above else dumped
        holder.pop(key, None)
    if masked and "headers" in dumped:
        headers: dict[str, object] = dumped["headers"]
        dumped["headers"] = {
            name: MASK if name.lower() in SENSITIVE_HEADERS else value for name, value in headers.items()
        }
    return dumped


def _section(section: Any, *, masked: bool) -> dict[str, Any]:  # noqa: ANN401 - any section
    dumped: dict[str, Any] = {}
    for each in fields(type(section)):
        value = getattr(section, each.name)
        if value is not None or each.type == Heartbeat | None:
            dumped[each.name.replace("_", "-")] = document_value(value, each.type, masked=masked)
    return dumped


def document_value(value: Any, annotation: Any, *, masked: bool = False) -> Any:  # noqa: ANN401 - any field's value
    """Return what a document holds for a field's value."""
    field_type = field_type_of(annotation)
    if field_type is not None:
        return MASK if masked and isinstance(value, Secret) else field_type.write(value)
    if isinstance(annotation, type) and has(annotation):
        return _section(value, masked=masked)
    if get_origin(annotation) is Mapping:
        inner = get_args(annotation)[1]
        return {key: document_value(each, inner, masked=masked) for key, each in value.items()}
    if get_origin(annotation) is tuple:
        inner = get_args(annotation)[0]
        return [document_value(each, inner, masked=masked) for each in value]
    if value is None:
        return NONE
    # Optional: what is there is of the first of the two.
    return document_value(value, get_args(annotation)[0], masked=masked)

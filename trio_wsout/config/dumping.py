"""From a `Config` back to a document: kebab-case keys, durations and sizes in their shortest form (SPEC 1)."""

# A field may hold any value, so pyright knows little about the values here.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownMemberType=false

from collections.abc import Mapping
from typing import Any, get_args

from attrs import fields

from trio_wsout.config.field_types import field_type_of, kebab, section_of, without_none
from trio_wsout.config.secret import REDACTED, Secret, redact_headers
from trio_wsout.config.sections import NONE, Config, Heartbeat
from trio_wsout.config.validation import unusable


def dump_config(config: Config, *, redacted: bool = False) -> dict[str, Any]:
    """Return the document of a configuration: every field that its mode can use and that is not absent.

    Args:
        config: The configuration.
        redacted: Put ``***`` in place of every secret. Without it, `load_config` makes an equal Config of the result.
    """
    dumped = _section(config, redacted=redacted)
    for name in unusable(config.mode, link=config.url is not None):
        *above, key = kebab(name).split(".")
        holder: Any = dumped.get(above[0], {}) if above else dumped
        holder.pop(key, None)
    if redacted and "headers" in dumped:
        dumped["headers"] = redact_headers(dumped["headers"])
    return dumped


def _section(section: Any, *, redacted: bool) -> dict[str, Any]:  # noqa: ANN401 - any section
    dumped: dict[str, Any] = {}
    for each in fields(type(section)):
        value = getattr(section, each.name)
        if value is not None or section_of(each.type) is Heartbeat:
            dumped[kebab(each.name)] = document_value(value, each.type, redacted=redacted)
    return dumped


def document_value(value: Any, annotation: Any, *, redacted: bool = False) -> Any:  # noqa: ANN401 - any field's value
    """Return a field's value in the form that it has in a document."""
    if value is None:
        return NONE
    annotation = without_none(annotation)
    field_type = field_type_of(annotation)
    if field_type is not None and field_type.element is not None and isinstance(value, tuple):
        return [field_type.write(each) for each in value]
    if field_type is not None:
        return REDACTED if redacted and isinstance(value, Secret) else field_type.write(value)
    if section_of(annotation) is not None:
        return _section(value, redacted=redacted)
    inner = [each for each in get_args(annotation) if each is not Ellipsis][-1]
    if isinstance(value, Mapping):
        return {key: document_value(each, inner, redacted=redacted) for key, each in value.items()}
    return [document_value(each, inner, redacted=redacted) for each in value]

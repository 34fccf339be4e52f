"""JSON to the contract's messages and back. Knows protobuf and the JSON rules of the contract; knows no route and no HTTP.

Names are snake_case, integers are numbers, times RFC 3339, enum values short lower-case names (full names are read too). What a message
does not have is refused by its path, as `inputs[3].text`.
"""

from __future__ import annotations

from typing import Any, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from liveloop.errors import InvalidInput

M = TypeVar("M", bound=Message)
Field = Any  # a FieldDescriptor: protobuf has one class of it for each of its backends
Enum = Any  # an EnumDescriptor, likewise

_INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32: (-(1 << 31), (1 << 31) - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(1 << 63), (1 << 63) - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, (1 << 32) - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, (1 << 64) - 1),
}
_WIDE = (FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64)
_FLOATS = (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE)


def from_json(kind: type[M], value: Any, path: str = "") -> M:
    """The message that a JSON value stands for; `path` is where the value stands in the body.

    Raises:
        InvalidInput: an unknown field, a value of the wrong type, or two members of a oneof; `field` is its path.
    """
    message = kind()
    _fill(message, value, path)
    return message


def to_json(message: Message) -> dict[str, Any]:
    """A message as the JSON object the contract promises: every plain field is there, also where it is empty."""
    plain = MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    return _short(message, plain)


def is_map(field: Field) -> bool:
    """The field is a map."""
    return bool(field.message_type and field.message_type.GetOptions().map_entry)


def short_name(enum: Enum, name: str) -> str:
    """A value's short name: `THUMB_UP` of `Thumb` is `up`."""
    prefix = "".join(f"_{letter}" if letter.isupper() else letter.upper() for letter in enum.name).lstrip("_") + "_"
    return name.removeprefix(prefix).lower()


def _fill(message: Message, value: Any, path: str) -> None:
    if isinstance(message, Timestamp):
        _fill_time(message, value, path)
        return
    if not isinstance(value, dict):
        raise InvalidInput(f"{path or 'the body'} is not a JSON object", field=path)
    fields, taken = message.DESCRIPTOR.fields_by_name, dict[str, str]()
    for name, content in value.items():
        place = f"{path}.{name}" if path else name
        if name not in fields:
            raise InvalidInput(f"there is no field {place}; the fields are {', '.join(fields)}", field=place)
        if content is None:  # as if it were absent
            continue
        oneof = fields[name].containing_oneof
        if oneof and taken.setdefault(oneof.name, name) != name:
            raise InvalidInput(f"{place} and {taken[oneof.name]} exclude each other", field=place)
        _set(message, fields[name], content, place)


def _set(message: Message, field: Field, content: Any, place: str) -> None:
    if is_map(field):
        if not isinstance(content, dict):
            raise InvalidInput(f"{place} is not a JSON object", field=place)
        of_value = field.message_type.fields_by_name["value"]
        getattr(message, field.name).update({as_text(key, place): _scalar(of_value, one, f"{place}.{key}") for key, one in content.items()})
    elif field.is_repeated:
        if not isinstance(content, list):
            raise InvalidInput(f"{place} is not a JSON list", field=place)
        for index, one in enumerate(content):
            if field.message_type:
                _fill(getattr(message, field.name).add(), one, f"{place}[{index}]")
            else:
                getattr(message, field.name).append(_scalar(field, one, f"{place}[{index}]"))
    elif field.message_type:
        inner = getattr(message, field.name)
        inner.SetInParent()  # `{}` is a value too: a retraction has no fields
        _fill(inner, content, place)
    else:
        setattr(message, field.name, _scalar(field, content, place))


def _scalar(field: Field, content: Any, place: str) -> Any:
    """A scalar of the field's type, checked."""
    kind = field.cpp_type
    if kind == FieldDescriptor.CPPTYPE_STRING:
        return as_text(content, place)
    if kind == FieldDescriptor.CPPTYPE_ENUM:
        return _enum(field.enum_type, content, place)
    if kind == FieldDescriptor.CPPTYPE_BOOL and isinstance(content, bool):
        return content
    if kind in _FLOATS and isinstance(content, int | float) and not isinstance(content, bool) and abs(content) < 1e38:
        return float(content)
    if kind in _INTEGERS and isinstance(content, int) and not isinstance(content, bool):
        low, high = _INTEGERS[kind]
        if low <= content <= high:
            return content
    raise InvalidInput(f"{place} is not a {_type_name(field)}", field=place)


def as_text(content: Any, place: str) -> str:
    """A string that can be written as UTF-8. Raises InvalidInput."""
    if not isinstance(content, str):
        raise InvalidInput(f"{place} is not a string", field=place)
    try:
        content.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(f"{place} holds half of a surrogate pair, which is not text", field=place) from error
    return content


def _enum(enum: Enum, content: Any, place: str) -> int:
    names = {short_name(enum, name): number for name, number in enum.values_by_name.items()} | dict(enum.values_by_name.items())
    if not isinstance(content, str) or content not in names:
        choices = ", ".join(short_name(enum, one.name) for one in enum.values if one.number)
        raise InvalidInput(f"{place} is none of {choices}", field=place)
    return int(names[content].number)


def _fill_time(message: Timestamp, value: Any, path: str) -> None:
    try:
        message.FromJsonString(as_text(value, path))
    except ValueError as error:
        raise InvalidInput(f"{path} is not a time like 2026-01-31T12:00:00Z", field=path) from error


def _type_name(field: Field) -> str:
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return "boolean"
    return "finite number" if field.cpp_type in _FLOATS else "whole number in range"


def _short(message: Message, plain: dict[str, Any]) -> dict[str, Any]:
    """In the order of the fields, and mended where protobuf's own JSON differs from the contract's."""
    return {
        name: _mend(field, getattr(message, name), plain[name])
        for name, field in message.DESCRIPTOR.fields_by_name.items()
        if name in plain
    }


def _mend(field: Field, content: Any, plain: Any) -> Any:
    """Enum values by their short names instead of full ones, 64-bit integers as numbers instead of strings."""
    if is_map(field):
        return plain
    if field.is_repeated:
        return [_mend_one(field, one, plain_one) for one, plain_one in zip(content, plain, strict=True)]
    return _mend_one(field, content, plain)


def _mend_one(field: Field, content: Any, plain: Any) -> Any:
    if field.enum_type and isinstance(plain, str):  # a value newer than this contract stays a number
        return short_name(field.enum_type, plain)
    if field.cpp_type in _WIDE:
        return content
    return _short(content, plain) if isinstance(plain, dict) else plain

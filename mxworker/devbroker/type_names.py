"""RabbitMQ's names for the types of fields, which its error texts show. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal


def type_name(value: object) -> str:
    """Return RabbitMQ's name of a field's type, for the type that our clients choose for such a value."""
    match value:
        case bool():
            return "bool"
        case int():
            return _integer_type(value)
        case str():
            return "longstr"
        case float():
            return "float"
        case datetime():
            return "timestamp"
        case Decimal():
            return "decimal"
        case Mapping():
            return "table"
        case list():
            return "array"
        case bytearray() | bytes():
            return "binary"
        case _:
            return "void"


def _integer_type(value: int) -> str:
    for bits, name in ((8, "byte"), (16, "short"), (32, "signedint")):
        if -(2 ** (bits - 1)) <= value < 2 ** (bits - 1):
            return name
    return "long"

"""Which keys of a plain dict the code of a handler reads."""

from __future__ import annotations

from typing import Any

import pytest

from mxworker.samples.used_keys import document_read_by


@pytest.mark.parametrize(
    ("body", "document"),
    [
        ('if payload["total"] < 0: raise Reject(f"order {payload[0]}", payload["id"])', {"total": 1, "id": 1}),
        ('send(payload.get("mail", ""), payload["name"].strip())', {"mail": 1, "name": "text"}),
        ('x = payload["name"]; y = payload["name"].upper(); z = payload["name"]', {"name": "text"}),
        ('pay(payload["customer"]["card"]["number"], payload["customer"])', {"customer": {"card": {"number": 1}}}),
        ('payload["customer"].get("name").lower()', {"customer": {"name": "text"}}),
        ('payload["done"] = True', {}),
        ("for key in payload: print(payload[key], other['x'])", {}),
        ("save(payload)", {}),
    ],
)
@pytest.mark.parametrize("head", ["@app.consume('q')\nasync def handle(payload: dict):", "    def f(payload, ctx):"])
def test_keys_that_are_read_are_in_the_document(head: str, body: str, document: dict[str, Any]) -> None:
    indent = " " * (len(head) - len(head.lstrip()))
    assert document_read_by(f"{head}\n{indent}    {body.replace('; ', chr(10) + indent + '    ')}\n") == document


@pytest.mark.parametrize("source", ["", "def f(", "lambda payload: payload['x']", "def f(): pass", "\0"])
def test_text_that_is_no_function_reads_nothing(source: str) -> None:
    assert document_read_by(source) == {}

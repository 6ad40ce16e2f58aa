"""Forms with files: `multipart/form-data` (RFC 7578), parted without copying the files in it."""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from email.message import Message
from email.parser import BytesHeaderParser

from w2v_cli.serve.http import HttpError

MOST_FIELDS = 64
LONGEST_FIELD = 1 << 16  # bytes of a field that is no file
_LONGEST_HEAD = 1 << 13


@dataclass(frozen=True)
class Field:
    """One field of a form.

    Attributes:
        filename: of a file, as its sender calls it; None: a plain value.
        start: its first byte in the form.
        end: behind its last byte.
    """

    filename: str | None
    start: int
    end: int


Form = dict[str, list[Field]]


def read_form(data: mmap.mmap | bytes, kind: str) -> Form:
    """Find the fields of a form.

    Args:
        data: the body of a request.
        kind: its Content-Type, which tells what parts the fields.

    Raises:
        HttpError: it is no such form.
    """
    header = Message()
    header["Content-Type"] = kind
    boundary = header.get_param("boundary")
    if header.get_content_type() != "multipart/form-data" or not isinstance(boundary, str) or not boundary:
        raise HttpError(400, "The request must be a form (multipart/form-data) with the recording in the field file.")
    mark = b"--" + boundary.encode("latin-1", "replace")
    form: Form = {}
    position = data.find(mark)
    for _ in range(MOST_FIELDS):
        if position < 0:
            raise HttpError(400, "The form ends within a field.")
        position += len(mark)
        if data[position : position + 2] == b"--":
            return form
        name, field = _field(data, position, mark)
        form.setdefault(name, []).append(field)
        position = field.end + 2
    raise HttpError(400, f"The form has more than {MOST_FIELDS} fields.")


def value_of(data: mmap.mmap | bytes, form: Form, name: str) -> str | None:
    """Return the last plain value of a name; None: the form has none.

    Raises:
        HttpError: it is a file, too long, or no UTF-8.
    """
    values = values_of(data, form, name)
    return values[-1] if values else None


def values_of(data: mmap.mmap | bytes, form: Form, name: str) -> list[str]:
    """Return all plain values of a name.

    Raises:
        HttpError: one is a file, too long, or no UTF-8.
    """
    found = []
    for field in form.get(name, []):
        if field.filename is not None or field.end - field.start > LONGEST_FIELD:
            raise HttpError(400, f"The field {name} must be a short text.", name)
        try:
            found.append(data[field.start : field.end].decode())
        except UnicodeDecodeError as e:
            raise HttpError(400, f"The field {name} is not UTF-8.", name) from e
    return found


def _field(data: mmap.mmap | bytes, start: int, mark: bytes) -> tuple[str, Field]:
    """Return the name and the place of the field whose head begins at `start`."""
    body = data.find(b"\r\n\r\n", start, start + _LONGEST_HEAD)
    end = data.find(b"\r\n" + mark, max(body + 2, start))
    if body < 0 or end < 0:
        raise HttpError(400, "The form ends within a field.")
    head = BytesHeaderParser().parsebytes(data[start:body].lstrip(b"\r\n") + b"\r\n\r\n")
    name = head.get_param("name", header="content-disposition")
    if not isinstance(name, str):
        raise HttpError(400, "A field of the form has no name.")
    return name, Field(head.get_filename(), body + 4, max(end, body + 4))

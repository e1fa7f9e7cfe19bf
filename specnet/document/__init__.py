"""JSON documents: a strict JSON parser with line and column, the Document base class, error messages, migrations.

Imports `errors` and `files`. `json_text`, `canonical` and `diff` do not import Pydantic; the other modules do.
"""

"""JSON documents: strict JSON text with line and column, the Document base class, error messages, migrations.

Imports `errors` and `files`. `json_text`, `canonical` and `diff` do without Pydantic, which the others need.
"""

"""Text data and language models."""

from __future__ import annotations

SCHEMAS: dict[str, type] = {}

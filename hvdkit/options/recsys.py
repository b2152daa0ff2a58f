"""Interactions and recommender models."""

from __future__ import annotations

SCHEMAS: dict[str, type] = {}

"""Fixtures for all tests. The servers that they need start in tests/services.py."""

from __future__ import annotations

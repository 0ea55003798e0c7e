"""What a worker hands to the program."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel


class TallyRun(BaseModel):
    file: Path
    letter: str
    output_dir: Path


class HeraldRun(BaseModel):
    word: str
    output_dir: Path

"""The base class of the API's responses, as a client reads them."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Answer(BaseModel):
    """A response, or a part of one.

    Unknown fields from a newer hub are kept, and `--json` prints them. A missing declared field is a validation error.
    """

    model_config = ConfigDict(extra="allow", defer_build=True)

"""What tests do with a template in the process of the templates, which has no Django."""

from __future__ import annotations

import os

from finetune_hub.data.chat_template import ChatTemplate


def process_of(template: ChatTemplate) -> int:
    return os.getpid()


def raise_signal(template: ChatTemplate) -> None:
    os.abort()


def forget_the_time(template: ChatTemplate) -> None:
    while True:
        pass

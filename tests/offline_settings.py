"""The settings for tools that look at the code and reach no server: mypy's Django plugin, and the migrations check."""

import os

os.environ.setdefault("SECRET_KEY", "offline")
os.environ.setdefault("DATABASE_URL", "postgresql:///offline")
os.environ.setdefault("REDIS_URL", "unix:///offline")

from finetune_hub.settings import *  # noqa: F403

DATABASES = {"default": {"ENGINE": "django.db.backends.dummy"}}

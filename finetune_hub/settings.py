"""The settings. What differs between machines comes from environment variables, all set by `finetune-hub up`."""

from __future__ import annotations

from datetime import timedelta
from importlib.metadata import version
from pathlib import Path

import django

from finetune_hub import environment, plugins

BASE_DIR = Path(__file__).resolve().parent.parent

SECRET_KEY = environment.text("SECRET_KEY")
DEBUG = environment.flag("DEBUG", default=False)
PUBLIC_URL = environment.text("FINETUNE_HUB_URL", "http://127.0.0.1:8000")
ALLOWED_HOSTS = environment.text("ALLOWED_HOSTS", "localhost,127.0.0.1,[::1]").split(",")
CSRF_TRUSTED_ORIGINS = [PUBLIC_URL] if PUBLIC_URL.startswith("https://") else []

HOME = environment.folder("FINETUNE_HUB_HOME", Path("~/.finetune-hub"))
ARTIFACT_URL = environment.text("ARTIFACT_URL", f"file://{HOME}/artifacts")
# Whether downloads of single files redirect to the S3 store, and how long such a URL is valid.
REDIRECT_DOWNLOADS = environment.flag("FINETUNE_HUB_REDIRECT_DOWNLOADS", default=False)
DOWNLOAD_ADDRESS_LIFETIME = timedelta(minutes=15)
REDIS_URL = environment.text("REDIS_URL")
WORKER_NAME = environment.text("FINETUNE_HUB_WORKER_NAME", "local")
# Jobs can select workers by these labels.
WORKER_LABELS = environment.words("FINETUNE_HUB_WORKER_LABELS")
# How many devices a machine without a GPU offers, which share its CPUs and memory.
CPU_DEVICES = environment.count("FINETUNE_HUB_CPU_DEVICES", 1)

# A lease expires this long after its last renewal; a worker renews it three times as often (P3).
LEASE = timedelta(seconds=environment.seconds("FINETUNE_HUB_LEASE_SECONDS", 60))
# An assigned attempt that is not claimed within this time goes back to the queue.
CLAIM_WITHIN = timedelta(seconds=environment.seconds("FINETUNE_HUB_CLAIM_SECONDS", 30))
# Control sends every worker a canary task; one not consumed for this long makes the worker unhealthy.
CANARY_EVERY = timedelta(seconds=environment.seconds("FINETUNE_HUB_CANARY_SECONDS", 15))
CANARY_MISSING_AFTER = timedelta(seconds=environment.seconds("FINETUNE_HUB_CANARY_MISSING_SECONDS", 60))
# After SIGTERM, a trainer has this long to write its checkpoint before it is killed.
STOP_GRACE = timedelta(seconds=environment.seconds("FINETUNE_HUB_STOP_GRACE_SECONDS", 60))
RECONCILE_EVERY = timedelta(seconds=environment.seconds("FINETUNE_HUB_RECONCILE_SECONDS", 5))
# How often control probes the artifact store with a file, sends waiting notifications, and cleans up.
PROBE_EVERY = timedelta(seconds=60)
DELIVER_EVERY = timedelta(seconds=10)
TIDY_EVERY = timedelta(seconds=environment.seconds("FINETUNE_HUB_TIDY_SECONDS", 3600))
# How long to keep checkpoints and logs of ended jobs, and stored files that no row refers to.
KEEP_CHECKPOINTS = timedelta(days=environment.days("FINETUNE_HUB_KEEP_CHECKPOINTS_DAYS", 30))
KEEP_LOGS = timedelta(days=environment.days("FINETUNE_HUB_KEEP_LOGS_DAYS", 90))
KEEP_ORPHANS = timedelta(days=1)
# What is deleted can be restored for this long; then its files are deleted.
KEEP_DELETED = timedelta(days=environment.days("FINETUNE_HUB_KEEP_DELETED_DAYS", 7))
# A worker with less free disk space gets no jobs.
WORKER_MIN_FREE_BYTES = 2**30
RETRY_DELAY = timedelta(seconds=environment.seconds("FINETUNE_HUB_RETRY_SECONDS", 2))

# Allows webhooks to private addresses and over plain HTTP, for chat servers in your own network.
PRIVATE_WEBHOOKS = environment.flag("FINETUNE_HUB_PRIVATE_WEBHOOKS", default=False)
# The mail server. Without one, the hub sends no e-mail.
_mail_server = {
    "host": environment.optional("EMAIL_HOST"),
    "port": int(environment.optional("EMAIL_PORT") or 587),
    "username": environment.optional("EMAIL_HOST_USER"),
    "password": environment.optional("EMAIL_HOST_PASSWORD"),
    "use_tls": environment.flag("EMAIL_USE_TLS", default=True),
    "timeout": 10,
}
EMAIL_IS_SET_UP = bool(_mail_server["host"])
if django.VERSION >= (6, 1):
    MAILERS = {"default": {"OPTIONS": _mail_server}}
else:  # Older Django versions use these names, newer ones warn about them.
    EMAIL_HOST, EMAIL_PORT = _mail_server["host"], _mail_server["port"]
    EMAIL_HOST_USER, EMAIL_HOST_PASSWORD = _mail_server["username"], _mail_server["password"]
    EMAIL_USE_TLS, EMAIL_TIMEOUT = _mail_server["use_tls"], _mail_server["timeout"]
DEFAULT_FROM_EMAIL = environment.text("EMAIL_FROM", "finetune-hub@localhost")

DATASET_UPLOAD_MAX_BYTES = 2 * 1024**3
BASE_MODEL_UPLOAD_MAX_BYTES = 64 * 1024**3
# A base model that is fetched by name may be larger: its bytes do not pass through a web process.
BASE_MODEL_FETCH_MAX_BYTES = environment.count("FINETUNE_HUB_BASE_MODEL_FETCH_GB", 500) * 10**9
# A fetch ends after this long, however slowly its bytes come.
DATASET_FETCH_WITHIN = timedelta(seconds=environment.seconds("FINETUNE_HUB_DATASET_FETCH_SECONDS", 3600))
BASE_MODEL_FETCH_WITHIN = timedelta(seconds=environment.seconds("FINETUNE_HUB_BASE_MODEL_FETCH_SECONDS", 12 * 3600))
# Datasets are only imported from public https:// URLs; this also allows private addresses and http://.
ALLOW_PRIVATE_URLS = environment.flag("FINETUNE_HUB_ALLOW_PRIVATE_URLS", default=False)
# Store every upload in a file, whatever its size, as the checks need a path.
FILE_UPLOAD_HANDLERS = ["finetune_hub.upload_files.HomeUploadHandler"]

INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.contrib.humanize",
    "django.contrib.postgres",
    "django_htmx",
    "rest_framework",
    "drf_spectacular",
    "finetune_hub.accounts",
    "finetune_hub.catalog",
    "finetune_hub.fleet",
    "finetune_hub.notifications",
    "finetune_hub.registry",
    "finetune_hub.jobs",
    "finetune_hub.operations",
    "finetune_hub.api",
    "finetune_hub.dashboard",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "finetune_hub.dashboard.middleware.security_headers",
    "finetune_hub.dashboard.middleware.RefuseNul",
    "finetune_hub.dashboard.middleware.RefusalPages",
]

ROOT_URLCONF = "finetune_hub.urls"
ASGI_APPLICATION = "finetune_hub.asgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates", *plugins.template_folders()],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "finetune_hub.dashboard.context.site",
            ],
        },
    }
]

DATABASES = {"default": environment.database("DATABASE_URL", pool="FINETUNE_HUB_DATABASE_POOL")}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

AUTH_USER_MODEL = "accounts.User"
PASSWORD_HASHERS = ["finetune_hub.accounts.password_hashing.BoundedPBKDF2"]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator"},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
PASSWORD_RESET_TIMEOUT = 24 * 3600  # A first-login link is valid for a day.
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "home"
LOGOUT_REDIRECT_URL = "login"

USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en"
STATIC_URL = "/static/"
STATICFILES_DIRS = [BASE_DIR / "static", ("docs/images", BASE_DIR / "docs" / "images")]
WHITENOISE_USE_FINDERS = True

SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = PUBLIC_URL.startswith("https://")

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["finetune_hub.api.authentication.TokenAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    # Per user, or per IP address without a token; counted in each web process.
    "DEFAULT_THROTTLE_CLASSES": ["rest_framework.throttling.UserRateThrottle"],
    "DEFAULT_THROTTLE_RATES": {"user": environment.rate("FINETUNE_HUB_API_RATE", "3000/minute")},
    "EXCEPTION_HANDLER": "finetune_hub.api.errors.render_error",
    "TEST_REQUEST_DEFAULT_FORMAT": "json",
}
SPECTACULAR_SETTINGS = {
    "TITLE": "finetune_hub",
    "DESCRIPTION": "Datasets, base models, training jobs, adapters and workers of a fine-tuning service.",
    "VERSION": version("finetune_hub"),
    "SERVE_INCLUDE_SCHEMA": False,
}

CELERY_BROKER_URL = environment.celery_broker(REDIS_URL)
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
# Publishing never hangs without Redis: after one retry the wake-up is dropped; the reconciler sends another (P2).
CELERY_BROKER_TRANSPORT_OPTIONS = {
    "socket_connect_timeout": 2,
    "socket_timeout": 30,
    "health_check_interval": 10,
    "max_retries": 1,
    "interval_start": 0.1,
    "interval_step": 0,
    "interval_max": 0.1,
}
CELERY_TASK_PUBLISH_RETRY = False
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_DEFAULT_QUEUE = "control"
CELERY_TASK_SERIALIZER = "json"
CELERY_ACCEPT_CONTENT = ["json"]
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
# With remote control, anyone with access to Redis could stop workers. Only wake-ups are left (P2).
CELERY_WORKER_ENABLE_REMOTE_CONTROL = False
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_BEAT_SCHEDULE = {
    "reconcile": {"task": "workers.control.reconcile", "schedule": RECONCILE_EVERY, "options": {"expires": 30}},
    "send-canaries": {"task": "workers.control.send_canaries", "schedule": CANARY_EVERY, "options": {"expires": 30}},
    "probe": {"task": "workers.control.probe", "schedule": PROBE_EVERY, "options": {"expires": 60}},
    "deliver": {"task": "workers.control.deliver", "schedule": DELIVER_EVERY, "options": {"expires": 30}},
    "tidy": {"task": "workers.control.tidy", "schedule": TIDY_EVERY, "options": {"expires": 3600}},
}

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "lines": {
            "()": "finetune_hub.logs.Lines",
            "style": environment.choice("FINETUNE_HUB_LOG_FORMAT", ["auto", "json", "plain"]),
            "secrets": [SECRET_KEY, str(DATABASES["default"]["PASSWORD"]), _mail_server["password"]],
        }
    },
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "lines"}},
    "root": {"handlers": ["console"], "level": "INFO"},
    "loggers": {
        "httpx": {"level": "WARNING"},
        # Replaces their own handlers, which do not mask secrets.
        **{name: {"handlers": [], "propagate": True} for name in ("django", "django.server", "uvicorn")},
        **{name: {"handlers": [], "propagate": True} for name in ("uvicorn.access", "uvicorn.error")},
    },
}

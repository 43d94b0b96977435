"""Every setting. Read from the environment by typed readers; README lists each one (test_house.py sees to that)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from billing import crash
from portal import environment as env
from portal.stores.place import Place
from portal.stores.secrets_file import installation_secrets

BASE_DIR = Path(__file__).resolve().parent.parent

# Where things are kept

PLACE = Place.from_environment()
VAR_DIR = PLACE.var
WAL_DIR = env.folder("WAL_DIR", VAR_DIR / "wal")
PRIVATE_STORES = not env.text("DATABASE_URL")

# Secrets

_kept = installation_secrets(PLACE.secrets_file) if PRIVATE_STORES else {}
SECRET_KEY = env.secret("SECRET_KEY", _kept, length_min=32)
KEY_PEPPERS = env.peppers("KEY_PEPPER", env.secret("KEY_PEPPER", _kept))
SEALING_KEYS = env.sealing_keys("SEALING_KEYS", env.secret("SEALING_KEYS", _kept))

# What kind of installation

DEBUG = env.flag("DEBUG", default=False)
DEMO = env.flag("DEMO", default=PRIVATE_STORES)
DEFAULT_BRAND = env.text("DEFAULT_BRAND", "dialogix" if DEMO else "")
DEMO_INFERENCE_URL = env.web_url("DEMO_INFERENCE_URL")
DEMO_INFERENCE_MODEL = env.text("DEMO_INFERENCE_MODEL")

# How it is served (portal/server.py)

PORT = env.integer("PORT", default=8000, at_least=1, at_most=65535)
BIND = env.addresses("BIND")
SERVE = env.choice("SERVE", "both", ("both", "portal", "proxy"))
WORKERS = env.integer("WORKERS", default=2, at_least=1, at_most=256)
CRASH_AT = env.choice("CRASH_AT", "", ("", *crash.POINTS))
METRICS_TOKEN = env.text("METRICS_TOKEN")
DRAIN_SECONDS = env.integer("DRAIN_SECONDS", default=20, at_least=0, at_most=3600)
CALLS_MAX = env.integer("CALLS_MAX", default=2_000, at_least=1, at_most=1_000_000)
BODIES_MIB_MAX = env.integer("BODIES_MIB_MAX", default=256, at_least=8, at_most=1_000_000)
ANSWERS_MIB_MAX = env.integer("ANSWERS_MIB_MAX", default=256, at_least=64, at_most=1_000_000)
REFUSALS_PER_MINUTE = env.integer("REFUSALS_PER_MINUTE", default=600, at_least=1, at_most=10**9)
UNKNOWN_KEYS_PER_MINUTE = env.integer("UNKNOWN_KEYS_PER_MINUTE", default=120, at_least=1, at_most=10**9)
CONNECTIONS_MAX = env.integer("CONNECTIONS_MAX", default=8_000, at_least=1, at_most=1_000_000)

# Whether every model is asked something every five minutes (portal/canary/), and where the proxy is found for that

CANARY = env.flag("CANARY", default=True)
CANARY_URL = env.web_url("CANARY_URL")

# When an engine's own counters contradict what was metered (billing/engine_counters.py): past both of these

ENGINE_DIFFERENCE_TOKENS = env.integer("ENGINE_DIFFERENCE_TOKENS", default=1_000, at_least=0, at_most=10**12)
ENGINE_DIFFERENCE_PERCENT = env.integer("ENGINE_DIFFERENCE_PERCENT", default=2, at_least=1, at_most=100)

# PostgreSQL

DATABASES: dict[str, dict[str, Any]] = {
    "default": env.database("DATABASE_URL", PLACE.database_url() if PRIVATE_STORES else "")
}
DATABASES["default"] |= {
    # A connection must not outlive its request: under ASGI it would stay behind in some thread. The pool reuses them.
    "CONN_MAX_AGE": 0,
    "CONN_HEALTH_CHECKS": True,
    # PgBouncer in transaction mode keeps neither prepared statements nor cursors between transactions.
    "DISABLE_SERVER_SIDE_CURSORS": True,
}
DATABASES["default"]["OPTIONS"] |= {"prepare_threshold": None, "application_name": "gateway"}
DATABASE_POOL = env.integer("DATABASE_POOL", default=0, at_least=0, at_most=100)
if DATABASE_POOL:
    DATABASES["default"]["OPTIONS"]["pool"] = {"min_size": 0, "max_size": DATABASE_POOL, "timeout": 10}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# Redis: what decides, what carries jobs, what may be forgotten

_redis_schemes = ("redis", "rediss", "unix")
_redis_given = env.url(
    "REDIS_URL",
    PLACE.redis_url() if PRIVATE_STORES else "",
    schemes=(*_redis_schemes, "redis+cluster", "rediss+cluster"),
)
if not _redis_given:
    raise ImproperlyConfigured("REDIS_URL is required when DATABASE_URL is given: the Redis that decides about money.")
REDIS_CLUSTER = "+cluster" in _redis_given.partition(":")[0]
REDIS_URL = _redis_given.replace("+cluster", "", 1) if REDIS_CLUSTER else _redis_given
if REDIS_CLUSTER and not (env.text("BROKER_URL") and env.text("CACHE_URL")):
    raise ImproperlyConfigured(
        "REDIS_URL names a cluster, where Celery has no transport: give BROKER_URL and CACHE_URL a single Redis."
    )
BROKER_URL = env.url("BROKER_URL", env.another_redis_database(REDIS_URL, 1), schemes=_redis_schemes)
CACHE_URL = env.url("CACHE_URL", env.another_redis_database(REDIS_URL, 2), schemes=_redis_schemes)
CACHES = {
    "default": {
        "BACKEND": "portal.throttle.SteadyCache",  # used codes of the second factor: nobody is locked out without Redis
        "LOCATION": CACHE_URL,
        "KEY_PREFIX": "portal",
        "TIMEOUT": 300,
        "OPTIONS": {"socket_timeout": 1, "socket_connect_timeout": 1},
    },
    "throttle": {
        "BACKEND": "portal.throttle.SteadyCache",
        "LOCATION": CACHE_URL,
        "KEY_PREFIX": "throttle",
        "OPTIONS": {"socket_timeout": 1, "socket_connect_timeout": 1},
    },
}

# Who may ask, and from where

ALLOWED_HOSTS = env.words("ALLOWED_HOSTS") or ["localhost", "127.0.0.1", "[::1]", ".localhost"]
TRUSTED_PROXIES = env.networks("TRUSTED_PROXIES")
HTTPS = env.flag("HTTPS", default=False)
CSRF_TRUSTED_ORIGINS = env.words("CSRF_TRUSTED_ORIGINS")
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = HTTPS
SECURE_HSTS_SECONDS = 31_536_000 if HTTPS else 0
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if HTTPS and TRUSTED_PROXIES else None
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
X_FRAME_OPTIONS = "DENY"
SECURE_REFERRER_POLICY = "same-origin"
DATA_UPLOAD_MAX_MEMORY_SIZE = 1_000_000

# Where webhooks of customers may go besides https at public addresses (billing/webhook_sending.py)

WEBHOOK_NETWORKS = env.networks("WEBHOOK_NETWORKS")
WEBHOOK_HTTP = env.flag("WEBHOOK_HTTP", default=False)

# The pages

INSTALLED_APPS = [
    "portal.apps.OperationsConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "django.contrib.postgres",
    "allauth",
    "allauth.account",
    "allauth.mfa",
    "allauth.usersessions",
    "rest_framework",
    "keys",
    "billing",
    "proxy",
    "portal.apps.PortalConfig",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "portal.middleware.SecurityHeadersMiddleware",
    "portal.middleware.NulMiddleware",
    "portal.middleware.BrandMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "allauth.account.middleware.AccountMiddleware",
    "portal.throttle.ThrottleMiddleware",
]
ROOT_URLCONF = "portal.urls"
ASGI_APPLICATION = "portal.asgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "portal.accounts.context",
            ]
        },
    }
]
STATIC_URL = "/static/"
WHITENOISE_USE_FINDERS = True  # no collectstatic, hence no STATIC_ROOT: files are few and read once
WHITENOISE_AUTOREFRESH = DEBUG
USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en-us"
USE_I18N = False

# People

AUTH_USER_MODEL = "keys.User"
AUTHENTICATION_BACKENDS = [
    "allauth.account.auth_backends.AuthenticationBackend",
    "keys.staff.BrandStaffBackend",  # what staff of a brand may do; signs nobody in
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in ("UserAttributeSimilarityValidator", "MinimumLengthValidator", "CommonPasswordValidator")
]
ACCOUNT_USER_MODEL_USERNAME_FIELD = None
ACCOUNT_LOGIN_METHODS = {"email"}
ACCOUNT_SIGNUP_FIELDS = ["email*", "password1*"]
ACCOUNT_ADAPTER = "portal.accounts.Adapter"
ACCOUNT_FORMS = {
    "login": "portal.forms.SignInForm",
    "signup": "portal.forms.SignUpForm",
    "reset_password": "portal.forms.ResetPasswordForm",
    "reset_password_from_key": "portal.forms.NewPasswordForm",
    "change_password": "portal.forms.ChangePasswordForm",
    "add_email": "portal.forms.EmailForm",
    "reauthenticate": "portal.forms.ReauthenticateForm",
}
# Only with confirmation before the first sign-in can a sign-up answer the same whether the address is known or not.
ACCOUNT_EMAIL_VERIFICATION = "mandatory"
ACCOUNT_LOGIN_ON_EMAIL_CONFIRMATION = True
ACCOUNT_CHANGE_EMAIL = True
ACCOUNT_REAUTHENTICATION_REQUIRED = True  # a session alone, stolen or left open, must not become the account
ACCOUNT_SESSION_REMEMBER = True
ACCOUNT_EMAIL_NOTIFICATIONS = True
ACCOUNT_RATE_LIMITS = False  # portal.throttle has the one table of them
LOGIN_URL = "account_login"
MFA_ADAPTER = "portal.second_factor.Adapter"
MFA_SUPPORTED_TYPES = ["totp", "recovery_codes"]
MFA_TOTP_TOLERANCE = 1  # a telephone's clock may be half a minute off
MFA_FORMS = {
    "authenticate": "portal.forms.SecondFactorForm",
    "reauthenticate": "portal.forms.ConfirmByCodeForm",
    "activate_totp": "portal.forms.EnrolForm",
}
CSRF_FAILURE_VIEW = "portal.views.errors.form_expired"

# The management API (portal/manage_api)

REST_FRAMEWORK = {
    "UNAUTHENTICATED_USER": None,
    "UNAUTHENTICATED_TOKEN": None,
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Management API",
    "VERSION": "1",
    "DESCRIPTION": "What the dashboard does, for programs: by management keys, which call no model.",
    "ENFORCE_NON_BLANK_FIELDS": True,
    "COMPONENT_SPLIT_PATCH": False,
    "POSTPROCESSING_HOOKS": ["portal.manage_api.schema.closed"],
}

# Mail: an SMTP server, or files under var/mail that the demo's mailbox page shows

EMAIL_URL = env.url("EMAIL_URL", "", schemes=("smtp", "smtp+tls", "smtps"))
DEFAULT_FROM_EMAIL = env.text("DEFAULT_FROM_EMAIL", "gateway@localhost")
SERVER_EMAIL = DEFAULT_FROM_EMAIL
EMAIL_TIMEOUT = 10
EMAIL_FILE_PATH = str(VAR_DIR / "mail")
if EMAIL_URL:
    EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    globals().update(env.smtp(EMAIL_URL))
else:
    EMAIL_BACKEND = "portal.mailbox.EmailBackend" if DEMO else "django.core.mail.backends.filebased.EmailBackend"

# Logs go to standard error, one line each; the supervisor keeps them in var/log

LOG_LEVEL = env.text("LOG_LEVEL", "INFO").upper()
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "{asctime} {levelname} {name}: {message}", "style": "{"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["stderr"], "level": LOG_LEVEL},
    "loggers": {
        "django": {"handlers": [], "level": LOG_LEVEL, "propagate": True},
        "stripe": {"level": "WARNING"},  # else two lines for every question that Stripe is asked
    },
}

# django-ratelimit only knows other packages' caches by name; Django's own Redis cache counts rightly (its increment
# and the counter's first expiry are two commands, and a lost one costs a window, not money).
SILENCED_SYSTEM_CHECKS = ["django_ratelimit.W001", "django_ratelimit.E003"]
RATELIMIT_USE_CACHE = "throttle"
RATELIMIT_IP_META_KEY = "portal.throttle.address_of"

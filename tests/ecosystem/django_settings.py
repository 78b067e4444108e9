"""A Django project with django-rq, on PostgreSQL."""

from __future__ import annotations

import os
from typing import Any

SECRET_KEY = "of the tests"
ALLOWED_HOSTS = ["testserver"]
ROOT_URLCONF = "tests.ecosystem.django_urls"
USE_TZ = True
APPS = ("auth", "contenttypes", "sessions", "messages", "admin")
INSTALLED_APPS = [*(f"django.contrib.{app}" for app in APPS), "django_rq"]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
PROCESSORS = ("auth.context_processors.auth", "messages.context_processors.messages")
TEMPLATES: list[dict[str, Any]] = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                *(f"django.contrib.{processor}" for processor in PROCESSORS),
            ]
        },
    }
]
STATIC_URL = "static/"
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": "postgres",
        "USER": "postgres",
        "HOST": os.environ.get("PGHOST", ""),
        "CONN_MAX_AGE": None if os.environ.get("PERSISTENT") else 0,
        "CONN_HEALTH_CHECKS": os.environ.get("PERSISTENT") == "checked",
        "OPTIONS": {"application_name": os.environ.get("PGAPPNAME", "tests")},
    }
}
RQ_QUEUES = {"default": {"URL": os.environ.get("REDIS_URL", "")}}

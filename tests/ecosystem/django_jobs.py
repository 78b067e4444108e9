"""Jobs of the Django project."""

from __future__ import annotations

import os

from django.contrib.auth.models import Group
from django.db import connection


def create(name: str) -> int:
    Group.objects.create(name=name)
    return os.getpid()


def sleep_in_the_database() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_sleep(60)")

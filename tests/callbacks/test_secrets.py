"""The auth of tasks: encrypted, opened with the keys at hand, never shown."""

from __future__ import annotations

import pytest

from rq_clock.callbacks.secrets import AuthUnusable, Vault
from rq_clock.errors import RqClockError
from rq_clock.settings import OWN_SECRETS, Settings, known_secrets

OLD, NEW = "o" * 32, "n" * 64
NO_VARIABLES: dict[str, str] = {}


def opened(vault: Vault, stored: bytes, **variables: str) -> str:
    return vault.authorization(stored, variables.__getitem__)


def test_what_is_sealed_is_opened_with_the_same_key_only() -> None:
    stored = Vault([OLD]).seal("s3cret-value")
    assert b"s3cret" not in stored
    assert opened(Vault([OLD]), stored) == "Bearer s3cret-value"
    for keys in ([NEW], []):
        with pytest.raises(AuthUnusable) as unusable:
            opened(Vault(keys), stored)
        assert "s3cret" not in str(unusable.value)


def test_while_a_key_is_replaced_both_open_and_the_new_one_seals() -> None:
    before, both = Vault([OLD]).seal("a"), Vault([NEW, OLD])
    assert opened(both, before) == "Bearer a"
    assert opened(Vault([NEW]), both.seal("a")) == "Bearer a"


def test_an_auth_with_a_space_is_a_whole_header_and_else_a_bearer() -> None:
    vault = Vault([NEW])
    assert opened(vault, vault.seal("Basic YTpi")) == "Basic YTpi"
    assert opened(vault, vault.seal("abc")) == "Bearer abc"
    assert opened(vault, vault.seal("")) == ""


def test_a_variable_is_put_in_by_the_worker() -> None:
    vault = Vault([])
    stored = vault.seal("Token ${env:CRM_KEY}")
    assert stored == b"vToken ${env:CRM_KEY}"
    assert opened(vault, stored, CRM_KEY="abc") == "Token abc"
    assert opened(vault, vault.seal("${env:CRM_KEY}"), CRM_KEY="abc") == "Bearer abc"
    assert opened(vault, vault.seal("${env:CRM_KEY}"), CRM_KEY="Basic a") == "Basic a"
    for value in ("a\nb", "", " "):
        with pytest.raises(AuthUnusable):
            opened(vault, vault.seal("${env:CRM_KEY}"), CRM_KEY=value)
    with pytest.raises(AuthUnusable, match="the variable CRM_KEY on the worker"):
        opened(vault, stored)


def test_what_others_have_changed_is_no_auth() -> None:
    stored = Vault([NEW]).seal("abc")
    for wrong in (stored[:-1], stored[:-1] + b"x", b"e", b"e\xff\xff", b"x", b"v\xff"):
        with pytest.raises(AuthUnusable):
            opened(Vault([NEW]), wrong)


def test_without_a_key_nothing_is_sealed() -> None:
    with pytest.raises(RqClockError, match="RQ_CLOCK_CALLBACKS_KEY"):
        Vault([]).seal("abc")


def test_the_key_is_one_of_rq_clocks_own_secrets() -> None:
    assert "RQ_CLOCK_CALLBACKS_KEY" in OWN_SECRETS
    env = {"RQ_CLOCK_CALLBACKS_KEY": f"{NEW},{OLD}"}
    settings = Settings.from_env(env)
    assert settings.callbacks_key == (NEW, OLD)
    assert NEW not in repr(settings)
    assert known_secrets(env).hide_text(f"a {OLD} b {NEW}") == "a **** b ****"
    for wrong in ("short", f"{NEW},short", f"{NEW},{OLD},{OLD}"):
        with pytest.raises(RqClockError) as refused:
            Settings.from_env({"RQ_CLOCK_CALLBACKS_KEY": wrong})
        assert wrong not in str(refused.value)

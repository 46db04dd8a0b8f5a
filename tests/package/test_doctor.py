"""The doctor says what is there and what to do; its exit status, whether the lab can run."""

import pytest
from redis.asyncio import Redis

from mpim_lab import doctor
from mpim_lab.cli import main
from mpim_lab.lab.server.embedded import EmbeddedServer


def test_on_a_machine_with_everything_the_doctor_is_content(capsys, monkeypatch):
    """Exit status 0; a server was really started."""
    monkeypatch.delenv("MPIM_REDIS_URL", raising=False)
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert "✔ server" in shown
    assert "Everything the lab needs is here." in shown


def test_a_missing_server_is_said_with_what_to_do(capsys, monkeypatch):
    """Exit status 1."""
    monkeypatch.delenv("MPIM_REDIS_URL", raising=False)
    monkeypatch.setenv("MPIM_SERVER_BINARY", "no-such-server")
    assert main(["doctor"]) == 1
    shown = capsys.readouterr().out
    assert "✘ server" in shown
    assert "no program 'no-such-server'" in shown


def test_a_readers_server_that_does_not_answer_is_said(capsys, monkeypatch):
    """MPIM_REDIS_URL is tried, not believed."""
    monkeypatch.setenv("MPIM_REDIS_URL", "redis://127.0.0.1:1")
    assert main(["doctor"]) == 1
    assert "MPIM_REDIS_URL" in capsys.readouterr().out


async def test_a_missing_package_is_said_with_what_to_do(monkeypatch):
    """What is optional is no failure."""
    monkeypatch.setattr(doctor, "NEEDED", ("no-such-package",))
    checks = {check.name: check for check in await doctor.diagnose()}
    assert not checks["no-such-package"].ok
    assert checks["no-such-package"].needed
    assert "make lab" in str(checks["no-such-package"])


def test_an_unknown_subcommand_is_an_error(capsys):
    """With the list of those there are."""
    with pytest.raises(SystemExit):
        main(["nonsense"])
    assert "doctor" in capsys.readouterr().err


async def test_a_server_that_is_too_old_is_said(monkeypatch):
    """Redis before 7.0.

    Every Valkey is new enough, although it calls itself Redis 7.2.4 as well.
    """
    async with EmbeddedServer() as server:
        monkeypatch.setenv("MPIM_REDIS_URL", server.url)
        for found, ok in (("Redis 6.2.14", False), ("Redis 7.0.0", True), ("Valkey 8.0.1", True)):

            async def version(url, found=found):
                return found

            monkeypatch.setattr(doctor, "server_version", version)
            checks = {check.name: check for check in await doctor.diagnose()}
            assert checks["version of the server (MPIM_REDIS_URL)"].ok == ok


async def test_the_readers_server_is_looked_at_as_far_as_this_user_may(monkeypatch):
    """Version by INFO or HELLO.

    Settings that may cost messages; a user with few rights gets a sentence instead.
    """
    async with EmbeddedServer() as server, Redis.from_url(server.url) as client:
        monkeypatch.setenv("MPIM_REDIS_URL", server.url)
        checks = {check.name: check for check in await doctor.diagnose()}
        assert checks["version of the server (MPIM_REDIS_URL)"].found.startswith("Valkey ")
        assert checks["maxmemory-policy"].ok and not checks["appendonly"].ok
        assert "acknowledged" in str(checks["appendonly"])
        await client.execute_command(
            "ACL", "SETUSER", "lab", "on", ">p", "~*", "&*", "+@all", "-@admin", "-@dangerous"
        )
        monkeypatch.setenv("MPIM_REDIS_URL", server.url.replace("redis://", "redis://lab:p@"))
        checks = {check.name: check for check in await doctor.diagnose()}
        assert checks["version of the server (MPIM_REDIS_URL)"].found.startswith("Valkey ")
        assert checks["maxmemory-policy"].found == "not shown to this user"
        assert all(check.ok for check in checks.values() if check.needed)

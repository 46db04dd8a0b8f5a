"""The doctor says what is there and what to do, and its exit status says whether the lab can run."""

import pytest

from mpim_lab import doctor
from mpim_lab.cli import main


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

"""The session's Dask configuration: TLS with the user's own key, the notebook's project and queue, a private place."""

import os
import pwd
import ssl
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from hpchub.dask_jobs import configuration
from hpchub.dask_jobs.patches import outside_lab

LAB = "https://hub.example.org/user/alice/"
NOW = datetime(2026, 11, 23, tzinfo=UTC)
SITE = {
    "10-site.yaml": b"jobqueue: {slurm: {cores: 4, processes: 1, memory: 8 GiB, job-extra-directives: [--no-requeue],"
    b" job-script-prologue: [module load x]}, pbs: {cores: 4, memory: 8 GiB}}",
    "20-tls.yaml": b"distributed: {comm: {default-scheme: tls, require-encryption: true}}",
}


def session(scheduler: str = "slurm", reservation: str | None = None) -> configuration.Session:
    logs = "/home/alice/.local/state/hpchub"
    return configuration.Session(scheduler, "climate", "regular", reservation, LAB, logs, job="17")


def settings(directory: Path) -> dict[str, dict[str, dict[str, object]]]:
    loaded = yaml.safe_load((directory / "zz-session.yaml").read_text())
    assert isinstance(loaded, dict)
    return loaded


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_session_inherits_project_queue_and_reservation_of_the_notebooks_own_job(tmp_path: Path) -> None:
    slurm = settings(configuration.write_session(tmp_path, session(reservation="tutorial"), SITE))["jobqueue"]["slurm"]
    assert (slurm["account"], slurm["queue"]) == ("climate", "regular")
    assert slurm["job-extra-directives"] == ["--no-requeue", "--reservation=tutorial"]
    pbs = settings(configuration.write_session(tmp_path, session("pbs", "R123"), SITE))["jobqueue"]["pbs"]
    assert (pbs["account"], pbs["queue"]) == ("climate", "R123")
    assert pbs["job-extra-directives"] == ["-k oed"], "a log is read while its job runs"


def test_a_section_for_another_queue_keeps_that_queue_and_gets_the_project(tmp_path: Path) -> None:
    site = {"a.yaml": b"jobqueue: {slurm: {queue: null}, gpu: {queue: gpu, log-directory: null}}"}
    sections = settings(configuration.write_session(tmp_path, session(), site))["jobqueue"]
    assert sections["slurm"]["queue"] == "regular"
    assert "queue" not in sections["gpu"]
    assert sections["gpu"]["account"] == "climate"
    assert sections["gpu"]["log-directory"] == "/home/alice/.local/state/hpchub"


def test_a_plain_cluster_has_what_the_site_says_of_the_notebooks_queue(tmp_path: Path) -> None:
    site = {"a.yaml": b"jobqueue: {slurm: {cores: 2, memory: 4GiB}, regular: {queue: regular, cores: 8, memory: 4GiB}}"}
    sections = settings(configuration.write_session(tmp_path, session(), site))["jobqueue"]
    assert (sections["slurm"]["cores"], sections["slurm"]["queue"]) == (8, "regular")
    assert "memory" not in sections["slurm"]


def test_workers_find_the_session_although_no_environment_is_passed_to_them(tmp_path: Path) -> None:
    directory = configuration.write_session(tmp_path, session(), SITE)
    prologue = settings(directory)["jobqueue"]["slurm"]["job-script-prologue"]
    assert prologue == ["module load x", f"export DASK_ROOT_CONFIG={directory}"]


def test_the_sites_files_stay_recognisable_and_the_session_comes_last(tmp_path: Path) -> None:
    directory = configuration.write_session(tmp_path, session(), SITE)
    assert sorted(path.name for path in directory.iterdir()) == ["10-site.yaml", "20-tls.yaml", "zz-session.yaml"]


def test_logs_go_where_the_site_says_or_into_the_users_state_directory(tmp_path: Path) -> None:
    slurm = settings(configuration.write_session(tmp_path, session(), SITE))["jobqueue"]["slurm"]
    assert slurm["log-directory"] == "/home/alice/.local/state/hpchub"
    site = {"a.yaml": b"jobqueue: {slurm: {log-directory: /scratch/logs}}"}
    assert "log-directory" not in settings(configuration.write_session(tmp_path, session(), site))["jobqueue"]["slurm"]


def test_logs_go_into_a_directory_of_the_users_own_where_the_site_has_them_off_the_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = pwd.struct_passwd(("alice", "x", os.getuid(), 2000, "", str(tmp_path), "/bin/sh"))
    monkeypatch.setattr(pwd, "getpwuid", lambda _uid: alice)
    (tmp_path / "scratch").mkdir()
    logs = f"{tmp_path}/scratch/{{user}}/dask"
    site = yaml.safe_dump({"jobqueue": {"slurm": {"log-directory": logs}, "gpu": {"log-directory": "{home}/gpu"}}})
    sections = settings(configuration.write_session(tmp_path / "keep", session(), {"a.yaml": site.encode()}))[
        "jobqueue"
    ]
    assert sections["slurm"]["log-directory"] == f"{tmp_path}/scratch/alice/dask"
    assert sections["gpu"]["log-directory"] == f"{tmp_path}/gpu"
    assert mode(tmp_path / "scratch/alice/dask") == mode(tmp_path / "gpu") == 0o700


def test_where_logs_cannot_be_a_cluster_of_jobs_says_why_it_does_not_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site = {
        "a.yaml": f"jobqueue: {{slurm: {{cores: 1, memory: 1GiB, log-directory: '{tmp_path}/no/{{user}}'}}}}".encode()
    }
    root = configuration.write_session(tmp_path / "keep", session(), SITE | site)
    name = pwd.getpwuid(os.getuid()).pw_name
    assert f"Dask gets no jobs: {tmp_path}/no/{name} cannot hold their logs: No such file" in capsys.readouterr().err
    done = run_dask(root, tmp_path, "from dask_jobqueue import SLURMCluster; SLURMCluster()")
    assert (
        "Logs of Dask jobs cannot be where this site has them: No such file or directory. `hpchub dask" in done.stderr
    )
    assert "Ask your help desk, or name another directory with log_directory=." in done.stderr
    code = "from dask_jobqueue import SLURMCluster; print(SLURMCluster(log_directory='mine').job_script())"
    assert "#SBATCH -e mine/" in run_dask(root, tmp_path, code).stdout


def test_keys_and_settings_are_the_users_alone(tmp_path: Path) -> None:
    directory = configuration.write_session(tmp_path, session(), SITE)
    for path in [tmp_path, *tmp_path.rglob("*")]:
        assert mode(path) == (0o700 if path.is_dir() else 0o600), path
    tls = settings(directory)["distributed"]["comm"]["tls"]
    assert isinstance(tls, dict)
    assert set(tls) == {"ca-file", "scheduler", "worker", "client"}
    assert all(Path(file).is_absolute() and Path(file).exists() for file in tls["worker"].values())


def test_an_open_directory_from_before_is_closed_and_a_foreign_one_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tmp_path / "dask"
    base.mkdir(mode=0o777)
    configuration.write_session(base, session(), SITE)
    assert mode(base) == 0o700
    (tmp_path / "link").symlink_to(base)
    for path, uid in ((tmp_path / "link", os.getuid()), (base, os.getuid() + 1)):
        monkeypatch.setattr(os, "getuid", lambda uid=uid: uid)
        with pytest.raises(OSError, match="not a directory of yours"):
            configuration.private_directory(path)


def test_a_key_is_kept_until_it_nears_its_end_and_running_clusters_keep_theirs(tmp_path: Path) -> None:
    first = configuration.key_directory(tmp_path, NOW)
    assert configuration.key_directory(tmp_path, NOW + timedelta(days=200)) == first
    second = configuration.key_directory(
        tmp_path, NOW + timedelta(days=configuration.KEY_DAYS - configuration.RENEW_DAYS + 1)
    )
    assert second != first
    assert (first / "key.pem").exists()
    assert configuration.key_directory(tmp_path, NOW + timedelta(days=configuration.KEY_DAYS - 1)) == second


def test_a_broken_key_is_replaced(tmp_path: Path) -> None:
    first = configuration.key_directory(tmp_path, NOW)
    (first / "cert.pem").write_text("")
    assert configuration.key_directory(tmp_path, NOW) != first


def test_the_certificate_passes_openssls_strict_check_as_its_own_anchor(tmp_path: Path) -> None:
    pair = configuration.key_directory(tmp_path, datetime.now(UTC))
    context = ssl.create_default_context(cafile=str(pair / "cert.pem"))
    context.load_cert_chain(pair / "cert.pem", pair / "key.pem")
    command = ["openssl", "verify", "-x509_strict", "-CAfile", str(pair / "cert.pem"), str(pair / "cert.pem")]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_sessions_that_were_killed_are_swept_up_later(tmp_path: Path) -> None:
    old = configuration.write_session(tmp_path, session(), SITE)
    os.utime(old, (0, 0))
    new = configuration.write_session(tmp_path, session(), SITE)
    assert not old.exists()
    assert new.exists()


def test_a_full_home_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_path: Path, _content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(configuration, "_write", full)
    with pytest.raises(OSError, match="No space"):
        configuration.write_session(tmp_path, session(), SITE)
    assert list((tmp_path / "keys").iterdir()) == []


def run_dask(root: Path, home: Path, code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {"DASK_ROOT_CONFIG": str(root), "HOME": str(home), "PATH": os.environ["PATH"], **variables}
    environment["PYTHONPATH"] = str(Path(configuration.__file__).parents[2])
    return subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_a_cluster_without_arguments_is_the_sites_and_the_users_own_settings_win(tmp_path: Path) -> None:
    root = configuration.write_session(tmp_path / "dask", session(), SITE)
    (tmp_path / ".config/dask").mkdir(parents=True)
    (tmp_path / ".config/dask/mine.yaml").write_text("jobqueue: {slurm: {queue: mine}}")
    code = (
        "from dask_jobqueue import SLURMCluster; c = SLURMCluster(log_directory=None);"
        "print(c.scheduler_address); print(c.job_script())"
    )
    done = run_dask(root, tmp_path, code)
    assert done.stdout.startswith("tls://"), done.stderr
    for line in ("#SBATCH -A climate", "#SBATCH -p mine", "#SBATCH --mem=8G", f"export DASK_ROOT_CONFIG={root}"):
        assert line in done.stdout


def test_with_a_full_home_a_cluster_of_jobs_says_why_it_does_not_start(tmp_path: Path) -> None:
    root = configuration.write_local_session(tmp_path / "local", session(), SITE, "No space left on device")
    done = run_dask(root, tmp_path, "from dask_jobqueue import SLURMCluster; SLURMCluster()")
    assert "Your home directory could not be written: No space left on device. Free some space" in done.stderr


def test_outside_of_a_lab_logs_are_the_sites_too_and_pbs_writes_them_while_the_job_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = pwd.struct_passwd(("alice", "x", os.getuid(), 2000, "", str(tmp_path), "/bin/sh"))
    monkeypatch.setattr(pwd, "getpwuid", lambda _uid: alice)
    site = yaml.safe_dump(
        {"hpchub": {"scheduler": "pbs"}, "jobqueue": {"pbs": {"cores": 1}, "gpu": {"log-directory": "{home}/logs"}}}
    )
    sections = yaml.safe_load((outside_lab.write(tmp_path, {"a.yaml": site.encode()}) / "own.yaml").read_text())[
        "jobqueue"
    ]
    assert sections["pbs"] == {
        "log-directory": f"{tmp_path}/.local/state/hpchub", "job-extra-directives": ["-k oed"]
    }  # fmt: skip
    assert sections["gpu"]["log-directory"] == f"{tmp_path}/logs"


def test_outside_of_a_lab_a_cluster_is_the_sites_too_and_its_link_is_where_it_listens(tmp_path: Path) -> None:
    site, mine = tmp_path / "opt/etc/dask", tmp_path / ".config/dask"
    for directory in (site, mine):
        directory.mkdir(parents=True)
    (site / "site.yaml").write_bytes(SITE["20-tls.yaml"] + b"\njobqueue: {slurm: {cores: 4, memory: 8GiB, queue: a}}")
    (mine / "mine.yaml").write_text("jobqueue: {slurm: {queue: mine}}")
    code = (
        "import dask.config; from hpchub.dask_jobs.patches import outside_lab;"
        f"outside_lab.change(dask.config, '{tmp_path}/opt/lab/digest');"
        "from dask_jobqueue import SLURMCluster;"
        "c = SLURMCluster(scheduler_options={'dashboard_address': '127.0.0.1:0'});"
        "print(c.scheduler_address); print(c.dashboard_link); print(c.job_script())"
    )
    done = run_dask(tmp_path / "gone", tmp_path, code)
    address, link, *script = done.stdout.splitlines()
    assert address.startswith("tls://"), done.stderr
    assert link.startswith("http://127.0.0.1:")
    assert {"#SBATCH -p mine", "#SBATCH --mem=8G"} <= set(script)
    assert any(f"{tmp_path}/.local/state/hpchub" in line for line in script)
    assert mode(tmp_path / ".local/share/hpchub/dask/keys") == 0o700


@pytest.mark.parametrize(
    ("job", "mine", "link"),
    [
        ("17", "", f"{LAB}proxy/1/status"),
        ("18", "", "http://127.0.0.1:1/status"),
        ("18", "distributed: {dashboard: {link: 'http://{host}/{port}'}}", "http://c1/1"),
    ],
)
def test_a_link_leads_to_the_lab_and_in_a_job_that_was_submitted_from_it_to_that_jobs_node(
    job: str, mine: str, link: str, tmp_path: Path
) -> None:
    root = configuration.write_session(tmp_path / "dask", session(), SITE)
    (tmp_path / ".config/dask").mkdir(parents=True)
    (tmp_path / ".config/dask/mine.yaml").write_text(mine)
    hook = "import hpchub.dask_jobs.patches.import_hook"
    code = f"{hook}; from distributed.utils import format_dashboard_link as f; print(f('c1', 1))"
    done = run_dask(root, tmp_path, code, SLURM_JOB_ID=job)
    assert done.stdout.strip() == link, done.stderr

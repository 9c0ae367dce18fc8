"""When a worker leaves, so that what it has is handed over before its job's wall time is over."""

import re
import subprocess
import time
from pathlib import Path

import pytest

from hpchub.dask_jobs import lifetime

SITE = {(2880.0, 360.0): 3600.0, (1440.0, 180.0): 1800.0}
WORKER = "/opt/python -m distributed.cli.dask_worker tls://192.0.2.1:1 --name one --nanny"
OF_SITE = "--lifetime 2880s --lifetime-stagger 360s"


def command(arguments: str = OF_SITE) -> str:
    return f"{WORKER} {arguments} --dashboard-address 127.0.0.1:0"


def leaves(fitted: str) -> lifetime.Pair | None:
    assert len(re.findall("--lifetime[ =]", fitted)) == 1
    return lifetime.pair_of(fitted.split())


@pytest.mark.parametrize(
    ("directives", "expected"),
    [
        ("#SBATCH -t 01:00:00", (2880, 360)),
        ("#SBATCH -t 04:00:00", (11520, 1440)),
        ("#SBATCH -t 30", (1440, 180)),
        ("#SBATCH -t 01:00:00\n#SBATCH --time=00:30:00", (1440, 180)),
        ("#SBATCH --time 1-0", (69120, 8640)),
        ("#PBS -l walltime=01:00:00", (2880, 360)),
        ("#PBS -l walltime=01:00:00\n#PBS -l place=free,walltime=1800", (1440, 180)),
    ],
)
def test_a_worker_leaves_in_the_sites_proportion_of_its_jobs_own_wall_time(
    directives: str, expected: lifetime.Pair
) -> None:
    assert leaves(lifetime.fit(directives, command(), SITE)) == expected


@pytest.mark.parametrize("limit", [1, 2, 5, 7, 10, 30, 60, 720])
@pytest.mark.parametrize("arguments", [OF_SITE, "", "--lifetime 13h", "--lifetime=12h --lifetime-stagger=1h"])
def test_however_short_the_wall_time_there_is_time_to_hand_over(limit: int, arguments: str) -> None:
    pair = leaves(lifetime.fit(f"#SBATCH -t {limit}", command(arguments), SITE))
    assert pair
    assert 0.3 * limit * 60 < pair[0] - pair[1]
    assert sum(pair) <= limit * 60 - min(60, limit * 30) + 1


@pytest.mark.parametrize("arguments", ["--lifetime 15s", "--lifetime 50m --lifetime-stagger 9m"])
def test_a_users_own_lifetime_that_ends_in_time_stays(arguments: str) -> None:
    assert lifetime.fit("#SBATCH -t 01:00:00", command(arguments), SITE).endswith(f" {command(arguments)}")


def test_the_worker_knows_by_when_it_leaves_at_the_latest_and_is_told_so_once() -> None:
    fitted = lifetime.fit("#SBATCH -t 60", command(), SITE)
    assert lifetime.fit("#SBATCH -t 60", fitted, SITE) == fitted
    line = f"{fitted.partition(WORKER)[0]} printenv {lifetime.LAST}"
    told = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=True)
    assert abs(int(told.stdout) - time.time() - 3540) < 10


@pytest.mark.parametrize(
    ("header", "line"),
    [
        ("#SBATCH -p regular", command()),
        ("#SBATCH -t UNLIMITED", command()),
        ("#SBATCH -t 01:00:00", command().replace("distributed.cli.dask_worker", "my.worker")),
        ("#SBATCH -t 01:00:00", command("--name 'unclosed")),
        ("#SBATCH -t 01:00:00", command('--lifetime "$SOON"')),
    ],
)
def test_where_the_time_or_the_worker_cannot_be_read_the_command_stays(header: str, line: str) -> None:
    assert lifetime.fit(header, line, SITE) == line


def test_the_proportions_are_those_of_the_sites_own_files(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text(
        "jobqueue: {slurm: {walltime: 01:00:00, worker-extra-args: [--lifetime, 2880s, --lifetime-stagger, 360s]}, "
        "odd: {walltime: 01:00:00}}"
    )
    assert lifetime.of_site(str(tmp_path)) == {(2880.0, 360.0): 3600.0}
    assert lifetime.of_site(str(tmp_path / "none")) == {}

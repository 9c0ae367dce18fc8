"""What Slurm 22.05 to 25.11 and OpenPBS 20.0 to 23.06 can say, from their sources: tests/unit/data/*.txt."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpchub.scheduler import JobState, Phase, pbs, slurm
from hpchub.scheduler.messages import logged, pbs_reason, refusal, slurm_reason

DATA = Path(__file__).parents[1] / "data"
SLURM = slurm.Slurm("/usr/bin", None)  # type: ignore[arg-type]
PBS = pbs.Pbs("/opt/pbs/bin", None)  # type: ignore[arg-type]


def listed(name: str) -> list[str]:
    return (DATA / name).read_text().splitlines()


def sentence(words: str) -> bool:
    return words[0].isupper() and words.endswith(".") and "The scheduler says" not in words


def test_every_state_of_slurm_is_classified() -> None:
    assert set(listed("states-slurm.txt")) == set(slurm.PHASES)


def test_every_state_of_pbs_is_classified() -> None:
    assert set(listed("states-pbs.txt")) == set(pbs.PHASES)


def test_every_way_in_which_a_job_of_slurm_can_end_has_a_sentence() -> None:
    ended = {state for state, phase in slurm.PHASES.items() if phase is Phase.ENDED}
    assert ended == set(slurm.ENDS)


def test_every_exit_status_of_pbs_itself_has_a_sentence() -> None:
    assert {status for status in pbs.ENDS if status <= 0} == {*range(-30, -9), *range(-7, 1)}


@pytest.mark.parametrize("reason", listed("reasons-slurm.txt"))
def test_every_reason_of_slurm_has_a_sentence(reason: str) -> None:
    assert sentence(slurm_reason(reason))


@pytest.mark.parametrize("comment", listed("comments-pbs.txt"))
def test_every_comment_of_the_scheduler_of_pbs_has_a_sentence(comment: str) -> None:
    assert sentence(pbs_reason(f"Not Running: {comment.replace('%s', 'ncpus')}"))


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("AssocMaxJobsLimit", "You have reached your limit of running jobs."),
        ("AssocGrpSubmitJobsLimit", "Your project has reached its limit of jobs."),
        ("AssocGrpCPUMinutesLimit", "Your project has used up its allocation of cores."),
        ("QOSMaxCpuPerUserLimit", "You have reached your limit of cores."),
        ("QOSGrpGRES", "All jobs of this quality of service (QOS) together have reached their limit of GPUs."),
        ("QOSMaxMemoryPerJob", "The job asks for more memory than one job may have. Stop it and ask for less."),
        ("QOSMinCpuNotSatisfied", "The job asks for fewer cores than this queue requires. Stop it and ask for more."),
        ("MaxMemoryPerAccount", "Your project has reached its limit of memory."),
        ("ReqNodeNotAvail, Reserved for maintenance", "The job would not end before the next maintenance"),
        ("ReqNodeNotAvail, UnavailableNodes:c[1-2]", "reserved or down"),
        (
            "Nodes required for job are DOWN, DRAINED or reserved for jobs in higher priority partitions",
            "reserved or down",
        ),
        ("Reservation course, which this job was running under, has ended", "reservation has ended"),
        (
            "Job is at or exceeds QOS normal's group wall limit of 9 with 9",
            "of this quality of service (QOS) is used up",
        ),
        ("A new text, with (brackets)", "The scheduler says: A new text, with (brackets)."),
        ("SomethingNew", "The scheduler says: SomethingNew."),
    ],
)
def test_limits_of_slurm_say_whose_they_are(reason: str, words: str) -> None:
    assert words in slurm_reason(reason)


@pytest.mark.parametrize(
    ("comment", "words"),
    [
        ("Not Running: Insufficient amount of resource: ncpus (R: 36 A: 34 T: 72)", "Waiting for free nodes."),
        ("Not Running: Insufficient amount of queue resource: ncpus ", "all that this queue may give"),
        (
            "Not Running: would exceed user alice's limit on resource ncpus in queue regular",
            "You have reached your limit",
        ),
        (
            "Not Running: would exceed project climate's limit on resource ncpus in complex",
            "Your project has reached its limit",
        ),
        ("Can Never Run: Insufficient amount of resource: ngpus (R: 9 A: 4 T: 4)", "The job can never start as it is"),
        ("Job held by bob on Mon Nov 23 at 01:44", "bob has put this job on hold"),
        ("job held, too many failed attempts to run", "Several nodes could not start the job"),
        ("Not Running: a new excuse.", "The scheduler says: a new excuse."),
        ("Job run at Mon Nov 23 at 01:44 on (c1:ncpus=2)", ""),
        ("", ""),
    ],
)
def test_comments_of_pbs_are_told_in_plain_words(comment: str, words: str) -> None:
    assert words in pbs_reason(comment)
    assert pbs_reason(comment) == "" or words


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (
            "sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified",
            "Choose another project or queue.",
        ),
        (
            "sbatch: error: QOSMaxSubmitJobPerUserLimit sbatch: error: Batch job submission failed: Job violates "
            "accounting/QOS policy (job submit limit, user's size and/or time limits)",
            "You have reached your limit of jobs.",
        ),
        ("sbatch: error: Batch job submission failed: Invalid qos specification", "quality of service"),
        ("sbatch: error: Batch job submission failed: Access denied to requested reservation", "this reservation"),
        ("sbatch: error: Batch job submission failed: Requested node configuration is not available", "Ask for less"),
        ("sbatch: error: Batch job submission failed: System submissions disabled", "during a maintenance"),
        ("sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)", "few min"),
        ("sbatch: error: Batch job submission failed: Required partition not available (inactive or drain)", "queue"),
        ("sbatch: error: Batch job submission failed: Invalid user id", "please ask help@example.org"),
        ("sbatch: error: Munge encode failed: Failed to access socket", "please tell help@example.org"),
        ("qsub: Unknown queue", "Choose another queue"),
        ("qsub: Access to queue is denied", "Choose another queue"),
        ("qsub: Unauthorized Request ", "Choose another queue"),
        ("qsub: Job violates queue and/or server resource limits", "limit of this queue"),
        ("qsub: would exceed complex's per-user limit", "limit of this queue"),
        ("qsub: Maximum number of jobs for user alice already in queue regular", "limit of this queue"),
        ("qsub: cannot connect to server ctl (errno=15010)", "try again in a few minutes"),
        ("qsub: Invalid Account", "Choose another project"),
        ("qsub: Request not allowed: Server shutting down", "during a maintenance"),
    ],
)
def test_a_refused_submission_says_what_to_do_and_keeps_the_schedulers_words(message: str, words: str) -> None:
    told = refusal(message, "help@example.org")
    assert words.lower() in told.lower()
    assert "The scheduler said: " in told


def test_a_refusal_of_the_sites_own_is_shown_as_it_is() -> None:
    assert refusal("qsub: No budget left for 2026", "help@example.org") == (
        "The scheduler refused the job: No budget left for 2026. If you cannot solve this, please ask help@example.org."
    )


@pytest.mark.parametrize(
    ("log", "words"),
    [
        ("OSError: [Errno 28] No space left on device", "home directory is full"),
        ("/bin/bash: line 1: /opt/hpchub/lab/1/bin/python: No such file or directory", "cannot see JupyterLab"),
        ("hpchub: The hub at login1:8081 could not be told the port: timed out.", "cannot reach the hub"),
        ("slurmstepd: error: Detected 1 oom_kill event in StepId=7.batch.", "ran out of memory"),
        ("all is well", ""),
    ],
)
def test_the_log_says_why_a_job_ended(log: str, words: str) -> None:
    assert words in logged(log, "help@example.org")
    assert not logged(log, "help@example.org") or words


def test_how_a_job_ended_is_told_for_both_schedulers() -> None:
    oom = JobState("1", "alice", Phase.ENDED, "OUT_OF_MEMORY")
    assert SLURM.explain(oom) == "The job ran out of memory. Start again with more."
    failed = JobState("1", "alice", Phase.ENDED, "FAILED", reason="NonZeroExitCode")
    assert SLURM.explain(failed) == "The job failed. It ended with an error."
    assert PBS.explain(JobState("1", "alice", Phase.ENDED, "finished", reason="-27")) == SLURM.explain(oom)
    assert "exit status 3" in PBS.explain(JobState("1", "alice", Phase.ENDED, "finished", reason="3"))
    assert "cancelled before it ran" in PBS.explain(JobState("1", "alice", Phase.ENDED, "finished"))

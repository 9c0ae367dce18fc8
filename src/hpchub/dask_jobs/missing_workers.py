"""Why workers of a Dask cluster are not there, in sentences: they wait, were refused, or died."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hpchub.privileged.user_files import last_lines
from hpchub.scheduler import JobState, Phase
from hpchub.scheduler.messages import logged

SHOWN_IDS = 3
LOG_LINES = 8
LOG_BYTES = 8 * 1024


@dataclass(frozen=True, slots=True)
class Absent:
    """A worker that is not there: its job, or why there is none; where its log should be."""

    job_id: str = ""
    refused: str = ""
    log_directory: str = ""


def why(
    present: int,
    absent: Sequence[Absent],
    jobs: Mapping[str, JobState],
    explain: Callable[[JobState], str],
    support: str,
) -> list[str]:
    """Sentences about the workers that are absent, the same reason once; none if all are there.

    `jobs` is what the scheduler says of their jobs, `explain` its words for one.
    """
    if not absent:
        return []
    reasons: dict[str, list[str]] = defaultdict(list)
    starts: dict[str, float] = {}
    for one in absent:
        words = _reason(one, jobs.get(one.job_id), explain, support)
        reasons[words].append(one.job_id)
        start = jobs[one.job_id].start if one.job_id in jobs and jobs[one.job_id].phase is Phase.WAITING else None
        if start is not None:
            starts[words] = min(start, starts.get(words, start))
    lines = [f"{present} of {present + len(absent)} workers are there."]
    for words, job_ids in reasons.items():
        lines.append(words.replace("{jobs}", _name(job_ids)))
        if words in starts:
            lines[-1] += f" Expected start: {time.strftime('%d %b %H:%M', time.localtime(starts[words]))}."
    return lines


def _reason(one: Absent, job: JobState | None, explain: Callable[[JobState], str], support: str) -> str:
    """A sentence in which {jobs} stands for all jobs of which the same is true."""
    if one.refused:
        return f"No job was queued: {one.refused}"
    if not one.job_id:
        return "Its job is being submitted."
    if job is None:
        return "{jobs}: the scheduler does not know it any more."
    if job.phase is Phase.WAITING:
        return "{jobs} in the queue: " + (explain(job) or "the scheduler gives no reason.")
    path, text = log(one.log_directory, one.job_id)
    if job.phase is Phase.RUNNING and not explain(job):
        words = f"{{jobs}} on {job.node or 'its node'}: the job is running; its worker has not connected yet."
        return f"{words} Its log is {path}." if path else words
    words = "{jobs}: " + (logged(text, support) or explain(job) or "it is ending.")
    return f"{words} The last lines of {path}:\n{text}" if text else words


def _name(job_ids: Sequence[str]) -> str:
    known = [job_id for job_id in job_ids if job_id]
    more = ", ..." if len(known) > SHOWN_IDS else ""
    return f"{len(known)} job{'s' if len(known) > 1 else ''} ({', '.join(known[:SHOWN_IDS])}{more})"


def log(directory: str, job_id: str) -> tuple[str, str]:
    """Path and last lines of a job's log, the errors' file before the other; both "" if there is none."""
    files = [path for path in Path(directory).glob(f"*{job_id}.*") if path.is_file()] if directory else []
    for path in sorted(files, key=lambda path: (path.suffix.lower() not in (".err", ".er"), path.name)):
        try:
            with path.open("rb") as file:
                file.seek(max(0, path.stat().st_size - LOG_BYTES))
                text = last_lines(file.read(LOG_BYTES))
        except OSError:
            continue
        if text.strip():
            return str(path), "\n".join(text.split("\n")[-LOG_LINES:])
    return "", ""

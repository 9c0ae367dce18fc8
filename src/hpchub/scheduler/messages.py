"""Messages: what batch systems say, as sentences for users. What is in no table here is shown unchanged."""

from __future__ import annotations

import re
from collections.abc import Mapping

# `man squeue`, JOB REASON CODES; src/common/job_state_reason.c of 22.05 to 25.11. Limits are in _SLURM_LIMIT.
SLURM_REASONS: Mapping[str, str] = {
    "None": "The scheduler has not considered this job yet.",
    "Priority": "Other jobs are ahead in the queue.",
    "Resources": "Next in the queue; waiting for free nodes.",
    "SchedDefer": "Waiting for the next scheduling cycle.",
    "Dependency": "Waiting for another job to end.",
    "DependencyNeverSatisfied": "The job depends on a job that failed, so it can never start. Stop it and start again.",
    "BeginTime": "Its earliest start has not come yet.",
    "DeadLine": "The job cannot end before its deadline. Stop it and start again.",
    "JobHeldAdmin": "An administrator has put this job on hold.",
    "JobHeldUser": "You put this job on hold. Release it: scontrol release JOBID.",
    "JobHoldMaxRequeue": "The job was requeued too often and is on hold. Stop it and start again.",
    "JobArrayTaskLimit": "The limit of running jobs of this array is reached.",
    "JobLaunchFailure": "The node could not start the job. Start again; it will get another node.",
    "Licenses": "Waiting for a licence.",
    "PartitionConfig": "The job does not fit this queue. Stop it and choose another queue.",
    "PartitionDown": "The queue is closed at the moment.",
    "PartitionInactive": "The queue is not taking jobs at the moment.",
    "PartitionNodeLimit": "The job asks for more nodes than the queue allows. Stop it and ask for less.",
    "PartitionTimeLimit": "The job asks for more wall time than the queue allows. Stop it and ask for less.",
    "ReqNodeNotAvail": "The nodes for this job are reserved or down; a maintenance may be near.",
    "NodeDown": "A node for this job is down.",
    "FrontEndDown": "A node for this job is down.",
    "MaxPoweredUpNodes": "The maximum number of powered-up nodes is reached; waiting for a node.",
    "PowerNotAvail": "There is not enough power for more nodes at the moment.",
    "PowerReserved": "The power for more nodes is reserved for other jobs at the moment.",
    "Reservation": "Waiting for the reservation to begin.",
    "ReservationDeleted": "The reservation was deleted. Stop the job and choose again.",
    "ReservationInvalid": "This job cannot use its reservation. Stop it and choose again.",
    "InvalidAccount": "The project is no longer valid. Stop the job and choose another project.",
    "AccountNotAllowed": "The project may not use this queue. Stop the job and choose another queue or project.",
    "InvalidQOS": "The quality of service (QOS) is no longer valid. Stop the job and choose again.",
    "QOSNotAllowed": "The project's QOS may not use this queue. Stop the job and choose another queue.",
    "AccountingPolicy": "A limit of your project is reached.",
    "AssociationJobLimit": "Your project has reached its limit of jobs.",
    "AssociationResourceLimit": "Your project has reached its limit of resources.",
    "AssociationTimeLimit": "Your project has used up its time.",
    "QOSJobLimit": "The limit of jobs of this quality of service (QOS) is reached.",
    "QOSResourceLimit": "The limit of this quality of service (QOS) is reached.",
    "QOSTimeLimit": "The time of this quality of service (QOS) is used up.",
    "QOSUsageThreshold": "Your project has used too much recently for this quality of service (QOS).",
    "MaxMemPerLimit": "The job asks for more memory per core or node than is allowed. Stop it and ask for less.",
    "BadConstraints": "No node has what the job asks for. Stop it and ask for less.",
    "Constraints": "No free node has what the job asks for.",
    "Cleaning": "The job is being cleaned up after a requeue.",
    "Prolog": "The node is being prepared.",
    "NvidiaImexChannels": "Waiting for a channel between GPUs.",
    "MpiPortsBusy": "Waiting for free network ports on the nodes.",
    "FedJobLock": "The clusters of the federation are deciding which of them runs the job.",
    "BlockFreeAction": "The nodes are being freed.",
    "BlockMaxError": "The nodes fail too often.",
    "BurstBufferResources": "Waiting for space in the burst buffer.",
    "BurstBufferStageIn": "Data are being copied to the burst buffer.",
    "BurstBufferOperation": "The burst buffer failed. Stop the job and start again.",
    "SystemFailure": "The scheduler or the file system failed.",
    "NonZeroExitCode": "It ended with an error.",
    "RaisedSignal": "It was killed.",
    "OutOfMemory": "It ran out of memory; ask for more.",
    "TimeLimit": "It reached its wall time.",
    "InactiveLimit": "It was inactive for too long.",
}

# Slurm puts a text of its own in a reason's place at times (state_desc in src/slurmctld, 22.05 to 25.11).
SLURM_TEXTS: Mapping[str, str] = {
    r"Nodes required for job are DOWN": SLURM_REASONS["ReqNodeNotAvail"],
    r"Reservation .* has ended": "The reservation has ended. Stop the job and choose again.",
    r"job requeued in held state": "The job was requeued and is on hold. Stop it and start again.",
    r"Job is at or exceeds association": "Your project has used up its time.",
    r"Job is at or exceeds QOS": "The time of this quality of service (QOS) is used up.",
    r"Burst buffer": SLURM_REASONS["BurstBufferOperation"],
}

# Assoc: a limit of the project; QOS or nothing: of the quality of service. Grp: of all its jobs together.
_SLURM_LIMIT = re.compile(
    r"(?P<owner>Assoc|QOS|)(?P<kind>Grp|Max|Min)"
    r"(?P<what>BB|Billing|CPU|Cpu|Energy|GRES|Jobs|License|Memory|Mem|Node|SubmitJobs?|Unknown|WallDuration|Wall)"
    r"(?P<run>Run)?(?P<time>Minutes|Mins)?(?P<each>PerJob|PerNode|PerUser|PerAccount)?(?:Limit|NotSatisfied)?"
)
_THINGS: Mapping[str, str] = {
    "BB": "space in the burst buffer", "Billing": "billing units", "CPU": "cores", "Cpu": "cores", "Energy": "energy",
    "GRES": "GPUs", "License": "licences", "Mem": "memory", "Memory": "memory", "Node": "nodes",
    "Unknown": "resources of some kind", "Wall": "wall time", "WallDuration": "wall time",
}  # fmt: skip

# What PBS writes into a job's comment after "Not Running: " (pbs_sched's table fctt and the server, 20.0 to 23.06).
PBS_REASONS: Mapping[str, str] = {
    r"Not enough (free|of the right type of) nodes|No available resources on nodes|Too few free resources|Nodes not": (
        "Waiting for free nodes."
    ),
    r"Insufficient amount of (queue|server) resource": (
        "Other jobs use all that this queue may give; waiting for them to end."
    ),
    r"Insufficient amount of resource|.* set .* has too few free resources|Can't preempt enough": (
        "Waiting for free nodes."
    ),
    r".* is requesting an exclusive node|Node has reached .* run limit|Load is above": "Waiting for free nodes.",
    r"Job would (interfere with a top job|conflict with reservation or top job|break strict)|Draining system|"
    r"Job is under job_sort|Provisioning for job would": "Other jobs are ahead in the queue.",
    r"Job would interfere with a confirmed|Provision conflict": "Waiting for a reservation to end.",
    r"Dedicated time conflict|Job would cross dedicated": (
        "The job would not end before the next maintenance. Wait until that is over, or stop it and ask for less time."
    ),
    r"Job will (run in|cross into)": "Waiting for the hours in which this queue runs jobs.",
    r"(User has reached|(Queue .*|Server) (job limit reached for user|per-user limit)|would exceed user)": (
        "You have reached your limit of running jobs or of resources."
    ),
    r"((Group|Project) has reached|(Queue .*|Server) (job limit reached for|per-group|per-project)|would exceed (group"
    r"|project)|Job (would exceed mission|exceeds total mission))": (
        "Your project has reached its limit of running jobs or of resources."
    ),
    r"(Queue|Server) .*job limit has been|would exceed overall|Number of concurrent|Max number of small": (
        "This queue has reached its limit of running jobs."
    ),
    r"Job has zero shares": "Your project has no share of this machine.",
    r"Queue not (started|an execution)": "The queue is closed at the moment.",
    r"Not enough total nodes|can't fit in the largest|Node (can't sat|ineligible because|is of an inel)|Specified ": (
        "No node has what the job asks for. Stop it and ask for less."
    ),
    r"Node (is in an ineligible state|not eligible for|has no PBS license)": (
        "The nodes for this job are down or reserved."
    ),
    r"Cannot provision": "The node cannot be prepared. Stop the job and choose another queue.",
    r"Internal Scheduling Error|Invalid Job/Resv|PBS Error|Job not in queued": (
        "The scheduler has a problem with this job and will try again."
    ),
}
# Comments that do not begin so, at any time of a job's life.
PBS_COMMENTS: Mapping[str, str] = {
    r"Job held by (\S+) on": "{1} has put this job on hold. Release it: qrls JOBID.",
    r"job held, too many failed": "Several nodes could not start the job, so it is on hold. Stop it and start again.",
    r"[Jj]ob held": "The job is on hold. Stop it and start again.",
    r"Job (run|was sent|started)|Job Array Began": "",
}

_AGAIN = "The scheduler does not answer at the moment. Please try again in a few minutes."
_LESS = "No node of this queue has what you ask for. Ask for less, or choose another queue."
_PROJECT = "This project may not use this queue, or is no longer valid. Choose another project or queue."
_LIMIT = "You or your project have reached a limit of this queue. Stop a job that you do not need, or ask for less."
_QUEUE = "You may not use this queue, or it takes no jobs at the moment. Choose another queue."
_RESERVATION = "You cannot use this reservation now. Choose none, or another one."
_ACCOUNT = "The scheduler does not know your account, or it may not run jobs. Please ask {support}."
_BROKEN = "The scheduler has an internal error and cannot take jobs. Please tell {support}."

# Messages of sbatch (slurm_errno.c) and qsub (pbs_messages.c): what to do. The first that fits counts.
REFUSALS: Mapping[str, str] = {
    r"submissions disabled|maintenance reservation|Server shutting down": (
        "The cluster takes no jobs at the moment, for example during a maintenance. Please try again later."
    ),
    r"Unable to contact slurm|Socket timed out|[Cc]ommunication connection failure|standby|Zero Bytes|try again|"
    r"Resource temporarily unavailable|cannot connect to server|Connection refused|No free connections|"
    r"did not answer within|Unable to connect to database": _AGAIN,
    r"Invalid account|Invalid or unknown association|Invalid Account": _PROJECT,
    r"[Ii]nvalid qos|QOS usage threshold": (
        "The project's quality of service (QOS) is not accepted here. Choose another queue or project."
    ),
    r"violates accounting/QOS|Maximum number of jobs|would exceed .*limit|Job violates queue": _LIMIT,
    r"time limit is invalid|Time limit specification": "This queue does not allow so long a wall time. Ask for less.",
    r"[Rr]eservation": _RESERVATION,
    r"Invalid partition name|group not permitted|partition not available|Partition in DOWN|Access/permission denied|"
    r"Unknown queue|Queue is not enabled|Access to queue is denied|Unauthorized Request|by all possible": _QUEUE,
    r"node configuration is not available|processors requested than|Memory required by|Invalid generic resource|"
    r"Insufficient GRES|CPU count specification|node not available|Unknown resource|Illegal attribute or resource|"
    r"limit exceeds allowable|partition configuration not": _LESS,
    r"[Ii]nvalid user id|Unable to resolve user|[Ii]nvalid group|Bad [UG]ID|not in .*passwd": _ACCOUNT,
    r"authentication|[Mm]unge|I/O error writing|internal error|credential": _BROKEN,
    r"Licenses currently": "All licences are in use. Please try again later.",
    r"No space left|quota": "A disk that the job needs is full. Delete files in your home directory and try again.",
}

# Lines of a job's log that say why it ended.
LOGGED: Mapping[str, str] = {
    r"No space left on device|Disk quota exceeded": "Your home directory is full. Delete files there and start again.",
    r"/bin/python: (No such file|Permission denied|cannot execute)|Permission denied: .*python": (
        "Its node cannot see JupyterLab's software. Start again; if it happens again, please tell {support} which node."
    ),
    r"could not be told the port": "Its node cannot reach the hub. Please tell {support}.",
    r"does not want this Lab": "It was stopped or replaced before it was ready. Start again.",
    r"does not fit this environment|ModuleNotFoundError|ImportError": (
        "JupyterLab's software is damaged or being replaced. Start again; if it happens again, please tell {support}."
    ),
    r"oom[-_]kill|Out of memory|MemoryError|Cannot allocate memory": "It ran out of memory. Start again with more.",
}


def _first(table: Mapping[str, str], text: str, *, anywhere: bool = False) -> str | None:
    """The words of the first pattern that fits; {1} in them is its first group."""
    for pattern, words in table.items():
        found = re.search(pattern, text) if anywhere else re.match(pattern, text)
        if found:
            return words.replace("{1}", found[1] or "") if "{1}" in words else words
    return None


def as_it_is(text: str) -> str:
    """The scheduler's own words, for what is in no table."""
    return f"The scheduler says: {text.rstrip('.')}." if text else ""


def slurm_reason(reason: str) -> str:
    """A reason of squeue (%r) as a sentence; "" for none."""
    if reason.startswith("ReqNodeNotAvail") and "maintenance" in reason:
        return (
            "The job would not end before the next maintenance. "
            "Wait until that is over, or stop it and ask for less time."
        )
    # an unavailable node comes with a list: ReqNodeNotAvail, UnavailableNodes:c[1-2]
    word = re.split(r"[\s,(]", reason, maxsplit=1)[0]
    limit = _SLURM_LIMIT.fullmatch(word)
    plain = _first(SLURM_TEXTS, reason) or SLURM_REASONS.get(word)
    return plain or (_limit(limit) if limit else as_it_is(reason))


def _limit(found: re.Match[str]) -> str:
    thing, each = found["what"], found["each"]
    if found["kind"] == "Min":
        return f"The job asks for fewer {_THINGS[thing]} than this queue requires. Stop it and ask for more."
    if each in ("PerJob", "PerNode"):
        return f"The job asks for more {_THINGS[thing]} than one job may have. Stop it and ask for less."
    who, its = "All jobs of this quality of service (QOS) together have", "their"
    if found["owner"] == "Assoc" or each == "PerAccount":
        who, its = "Your project has", "its"
    if each == "PerUser" or (found["owner"] == "Assoc" and found["kind"] == "Max"):
        who, its = "You have", "your"
    if thing.startswith("Submit"):
        return f"{who} reached {its} limit of jobs."
    if thing == "Jobs":
        return f"{who} reached {its} limit of running jobs."
    if found["run"]:
        return f"Running jobs may use up the rest of the allocation of {_THINGS[thing]}; waiting for them to end."
    if found["time"] or thing == "Wall":
        return f"{who} used up {its} allocation of {_THINGS[thing]}."
    return f"{who} reached {its} limit of {_THINGS[thing]}."


def pbs_reason(comment: str) -> str:
    """A comment of a PBS job that waits as a sentence; "" for none."""
    prefix, found, text = comment.partition(": ")
    if not found or prefix not in ("Not Running", "Can Never Run"):
        words = _first(PBS_COMMENTS, comment)
        return as_it_is(comment) if words is None else words
    words = _first(PBS_REASONS, text)
    if prefix == "Can Never Run":
        return "The job can never start as it is. Stop it and ask for less." + (f" {as_it_is(text)}" if text else "")
    return words or as_it_is(text)


def refusal(message: str, support: str) -> str:
    """Why a submission was refused and what to do, with the scheduler's own words."""
    own = re.sub(r"\b(sbatch|qsub): ((error|fatal): )?", "", message).strip().rstrip(".")
    word = next((word for word in re.findall(r"[A-Za-z]+", own) if _SLURM_LIMIT.fullmatch(word)), "")
    words = slurm_reason(word) if word else _first(REFUSALS, message, anywhere=True)
    if not words:
        given = own or "no reason given"
        return f"The scheduler refused the job: {given}. If you cannot solve this, please ask {support}."
    return f"{words.replace('{support}', support)} The scheduler said: {own}."


def logged(log: str, support: str) -> str:
    """Why a job ended, from the last lines of its log; "" if they do not say."""
    return (_first(LOGGED, log, anywhere=True) or "").replace("{support}", support)

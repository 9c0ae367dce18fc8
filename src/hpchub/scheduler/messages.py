"""What batch systems say, in plain words. Whatever stands in no table here is shown as it is."""

from __future__ import annotations

import re
from collections.abc import Mapping

# `man squeue`, JOB REASON CODES; src/common/job_state_reason.c of 22.05 to 25.11. Limits are in _SLURM_LIMIT.
SLURM_REASONS: Mapping[str, str] = {
    "None": "The scheduler has not looked at it yet.",
    "Priority": "Other jobs are ahead of it in the queue.",
    "Resources": "It is next in line and waits for free nodes.",
    "SchedDefer": "The scheduler looks at it in its next round.",
    "Dependency": "It waits for another job.",
    "DependencyNeverSatisfied": "It waits for a job that failed, so it can never start; stop it and start again.",
    "BeginTime": "Its earliest start has not come yet.",
    "DeadLine": "It cannot end before its deadline; stop it and start again.",
    "JobHeldAdmin": "An administrator holds it back.",
    "JobHeldUser": "You hold it back; release it with scontrol release.",
    "JobHoldMaxRequeue": "It was requeued too often and is held back; stop it and start again.",
    "JobArrayTaskLimit": "Other jobs of its array come first.",
    "JobLaunchFailure": "Its node could not start it. Start again; it will get another node.",
    "Licenses": "It waits for a licence.",
    "PartitionConfig": "The queue cannot take it as it is; stop it and choose another queue.",
    "PartitionDown": "The queue is closed at the moment.",
    "PartitionInactive": "The queue is not taking jobs at the moment.",
    "PartitionNodeLimit": "It asks for more nodes than the queue gives; stop it and ask for less.",
    "PartitionTimeLimit": "It asks for more time than the queue gives; stop it and ask for less.",
    "ReqNodeNotAvail": "The nodes it needs are reserved or down; a maintenance may be near.",
    "NodeDown": "A node it needs is down.",
    "FrontEndDown": "A node it needs is down.",
    "MaxPoweredUpNodes": "As many nodes are switched on as may be; it waits for one of them.",
    "PowerNotAvail": "There is not enough power for more nodes at the moment.",
    "PowerReserved": "The power for its nodes is reserved for others at the moment.",
    "Reservation": "It waits for its reservation to begin.",
    "ReservationDeleted": "Its reservation was deleted; stop it and choose again.",
    "ReservationInvalid": "Its reservation cannot be used for this; stop it and choose again.",
    "InvalidAccount": "The project is not valid any more; stop it and choose another.",
    "AccountNotAllowed": "The project may not use this queue; stop it and choose another queue or project.",
    "InvalidQOS": "The quality of service is not valid any more; stop it and choose again.",
    "QOSNotAllowed": "The project's quality of service may not use this queue; stop it and choose another queue.",
    "AccountingPolicy": "A limit of your project holds it back.",
    "AssociationJobLimit": "Your project has as many jobs as it may have.",
    "AssociationResourceLimit": "Your project uses as much as it may use.",
    "AssociationTimeLimit": "Your project has used as much time as it may use.",
    "QOSJobLimit": "There are as many jobs of this kind as there may be.",
    "QOSResourceLimit": "Jobs of this kind use as much as they may use.",
    "QOSTimeLimit": "Jobs of this kind have used as much time as they may use.",
    "QOSUsageThreshold": "Your project has used too much lately for this quality of service.",
    "MaxMemPerLimit": "It asks for more memory per core or node than may be; stop it and ask for less.",
    "BadConstraints": "No node has what it asks for; stop it and ask for less.",
    "Constraints": "No node that is free has what it asks for.",
    "Cleaning": "It is being cleaned up after a restart.",
    "Prolog": "Its node is being prepared.",
    "NvidiaImexChannels": "It waits for a channel between GPUs.",
    "MpiPortsBusy": "It waits for network ports of its nodes.",
    "FedJobLock": "Several clusters agree on who runs it.",
    "BlockFreeAction": "Its nodes are being made free.",
    "BlockMaxError": "Its nodes fail too often.",
    "BurstBufferResources": "It waits for room in the burst buffer.",
    "BurstBufferStageIn": "Its data are being copied to the burst buffer.",
    "BurstBufferOperation": "The burst buffer failed; stop it and start again.",
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
    r"Reservation .* has ended": "Its reservation has ended; stop it and choose again.",
    r"job requeued in held state": "It was requeued and is held back; stop it and start again.",
    r"Job is at or exceeds association": "Your project has used as much time as it may use.",
    r"Job is at or exceeds QOS": "Jobs of this kind have used as much time as they may use.",
    r"Burst buffer": SLURM_REASONS["BurstBufferOperation"],
}

# Assoc: a limit of the project; QOS or nothing: of the quality of service. Grp: of all its jobs together.
_SLURM_LIMIT = re.compile(
    r"(?P<owner>Assoc|QOS|)(?P<kind>Grp|Max|Min)"
    r"(?P<what>BB|Billing|CPU|Cpu|Energy|GRES|Jobs|License|Memory|Mem|Node|SubmitJobs?|Unknown|WallDuration|Wall)"
    r"(?P<run>Run)?(?P<time>Minutes|Mins)?(?P<each>PerJob|PerNode|PerUser|PerAccount)?(?:Limit|NotSatisfied)?"
)
_THINGS: Mapping[str, str] = {
    "BB": "room in the burst buffer", "Billing": "billing units", "CPU": "cores", "Cpu": "cores", "Energy": "energy",
    "GRES": "GPUs", "License": "licences", "Mem": "memory", "Memory": "memory", "Node": "nodes",
    "Unknown": "of something", "Wall": "wall time", "WallDuration": "wall time",
}  # fmt: skip

# What PBS writes into a job's comment after "Not Running: " (pbs_sched's table fctt and the server, 20.0 to 23.06).
PBS_REASONS: Mapping[str, str] = {
    r"Not enough (free|of the right type of) nodes|No available resources on nodes|Too few free resources|Nodes not": (
        "It waits for free nodes."
    ),
    r"Insufficient amount of (queue|server) resource": "Others use all that this queue may give; it waits for them.",
    r"Insufficient amount of resource|.* set .* has too few free resources|Can't preempt enough": (
        "It waits for free nodes."
    ),
    r".* is requesting an exclusive node|Node has reached .* run limit|Load is above": "It waits for free nodes.",
    r"Job would (interfere with a top job|conflict with reservation or top job|break strict)|Draining system|"
    r"Job is under job_sort|Provisioning for job would": "Other jobs are ahead of it in the queue.",
    r"Job would interfere with a confirmed|Provision conflict": "It waits for a reservation to end.",
    r"Dedicated time conflict|Job would cross dedicated": (
        "It would not end before the next maintenance; wait until that is over, or stop it and ask for less time."
    ),
    r"Job will (run in|cross into)": "It waits for the hours in which this queue runs jobs.",
    r"(User has reached|(Queue .*|Server) (job limit reached for user|per-user limit)|would exceed user)": (
        "You use as much, or have as many running jobs, as you may."
    ),
    r"((Group|Project) has reached|(Queue .*|Server) (job limit reached for|per-group|per-project)|would exceed (group"
    r"|project)|Job (would exceed mission|exceeds total mission))": (
        "Your project uses as much, or has as many running jobs, as it may."
    ),
    r"(Queue|Server) .*job limit has been|would exceed overall|Number of concurrent|Max number of small": (
        "This queue has as many running jobs as it may have."
    ),
    r"Job has zero shares": "Your project has no share of this machine.",
    r"Queue not (started|an execution)": "The queue is closed at the moment.",
    r"Not enough total nodes|can't fit in the largest|Node (can't sat|ineligible because|is of an inel)|Specified ": (
        "No node has what it asks for; stop it and ask for less."
    ),
    r"Node (is in an ineligible state|not eligible for|has no PBS license)": "The nodes it needs are down or reserved.",
    r"Cannot provision": "Its node cannot be prepared; stop it and choose another queue.",
    r"Internal Scheduling Error|Invalid Job/Resv|PBS Error|Job not in queued": (
        "The scheduler has trouble with it and tries again."
    ),
}
# Comments that do not begin so, at any time of a job's life.
PBS_COMMENTS: Mapping[str, str] = {
    r"Job held by (\S+) on": "{1} holds it back; release it with qrls.",
    r"job held, too many failed": "Several nodes could not start it, so it is held back; stop it and start again.",
    r"[Jj]ob held": "It is held back; stop it and start again.",
    r"Job (run|was sent|started)|Job Array Began": "",
}

_AGAIN = "The scheduler does not answer at the moment. Please try again in a few minutes."
_LESS = "No node of this queue has what you ask for. Ask for less, or choose another queue."
_PROJECT = "This project may not use this queue, or is not valid any more. Choose another project or queue."
_LIMIT = "You or your project have reached a limit of this queue. Stop a job that you do not need, or ask for less."
_QUEUE = "You may not use this queue, or it takes no jobs at the moment. Choose another queue."
_RESERVATION = "You cannot use this reservation now. Choose none, or another one."
_ACCOUNT = "The scheduler does not know your account, or it may not run jobs. Please ask {support}."
_BROKEN = "The scheduler cannot take jobs because of a defect of its own. Please tell {support}."

# Messages of sbatch (slurm_errno.c) and qsub (pbs_messages.c): what to do. The first that fits counts.
REFUSALS: Mapping[str, str] = {
    r"submissions disabled|maintenance reservation|Server shutting down": (
        "The cluster takes no jobs at the moment, as during a maintenance. Please try again later."
    ),
    r"Unable to contact slurm|Socket timed out|[Cc]ommunication connection failure|standby|Zero Bytes|try again|"
    r"Resource temporarily unavailable|cannot connect to server|Connection refused|No free connections|"
    r"did not answer within|Unable to connect to database": _AGAIN,
    r"Invalid account|Invalid or unknown association|Invalid Account": _PROJECT,
    r"[Ii]nvalid qos|QOS usage threshold": (
        "The project's quality of service is not accepted here. Choose another queue or project."
    ),
    r"violates accounting/QOS|Maximum number of jobs|would exceed .*limit|Job violates queue": _LIMIT,
    r"time limit is invalid|Time limit specification": "This queue does not give that much time. Ask for less.",
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
            "It would not end before the next maintenance; wait until that is over, or stop it and ask for less time."
        )
    # an unavailable node comes with a list: ReqNodeNotAvail, UnavailableNodes:c[1-2]
    word = re.split(r"[\s,(]", reason, maxsplit=1)[0]
    limit = _SLURM_LIMIT.fullmatch(word)
    plain = _first(SLURM_TEXTS, reason) or SLURM_REASONS.get(word)
    return plain or (_limit(limit) if limit else as_it_is(reason))


def _limit(found: re.Match[str]) -> str:
    thing, each = found["what"], found["each"]
    if found["kind"] == "Min":
        return f"It asks for fewer {_THINGS[thing]} than this queue wants; stop it and ask for more."
    who, may = "All jobs of this kind together", "they may"
    if found["owner"] == "Assoc" or each == "PerAccount":
        who, may = "Your project", "it may"
    if each == "PerUser" or (found["owner"] == "Assoc" and found["kind"] == "Max"):
        who, may = "You", "you may"
    has, uses = ("has", "uses") if who == "Your project" else ("have", "use")
    if thing.startswith("Submit"):
        return f"{who} {has} as many jobs as {may} have."
    if thing == "Jobs":
        return f"{who} {has} as many running jobs as {may} have."
    if each in ("PerJob", "PerNode"):
        return f"It asks for more {_THINGS[thing]} than one job may have; stop it and ask for less."
    if found["run"]:
        return f"Running jobs may use up the rest of the allocation of {_THINGS[thing]}; it waits for them to end."
    if found["time"] or thing == "Wall":
        return f"{who} {has} used up the allocation of {_THINGS[thing]}."
    return f"{who} {uses} as much {_THINGS[thing]} as {may} use." if thing in ("Mem", "Memory", "Energy", "BB") else (
        f"{who} {uses} as many {_THINGS[thing]} as {may} use."
    )  # fmt: skip


def pbs_reason(comment: str) -> str:
    """A comment of a PBS job that waits as a sentence; "" for none."""
    prefix, found, text = comment.partition(": ")
    if not found or prefix not in ("Not Running", "Can Never Run"):
        words = _first(PBS_COMMENTS, comment)
        return as_it_is(comment) if words is None else words
    words = _first(PBS_REASONS, text)
    if prefix == "Can Never Run":
        return "It can never start as it is; stop it and ask for less." + (f" {as_it_is(text)}" if text else "")
    return words or as_it_is(text)


def refusal(message: str, support: str) -> str:
    """Why a submission was refused and what to do, with the scheduler's own words."""
    own = re.sub(r"\b(sbatch|qsub): ((error|fatal): )?", "", message).strip().rstrip(".")
    word = next((word for word in re.findall(r"[A-Za-z]+", own) if _SLURM_LIMIT.fullmatch(word)), "")
    words = slurm_reason(word) if word else _first(REFUSALS, message, anywhere=True)
    if not words:
        return (
            f"The scheduler refused the job: {own or 'no reason given'}. If you cannot help it, please ask {support}."
        )
    return f"{words.replace('{support}', support)} The scheduler said: {own}."


def logged(log: str, support: str) -> str:
    """Why a job ended, from the last lines of its log; "" if they do not say."""
    return (_first(LOGGED, log, anywhere=True) or "").replace("{support}", support)

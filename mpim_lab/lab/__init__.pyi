from .exercise.challenge import Challenge, ChallengeResult, TrialFailure
from .exercise.experiment import Experiment, Result, Run, parameter
from .exercise.questions import load_questions
from .faults.injector import Fault, FaultInjector, schedule_faults
from .faults.latency_proxy import LatencyProxy
from .faults.proxy import FaultProxy, Match
from .server.embedded import EmbeddedServer, open_server
from .server.external import ExternalServer
from .system.embedded import MpimSystem
from .system.launcher import serve
from .trace.checker import Verdict, check, check_effects, check_trace
from .trace.trace import Trace
from .workload.corpus import Corpus
from .workload.workload import Workload

__all__ = [
    "Challenge",
    "ChallengeResult",
    "Corpus",
    "EmbeddedServer",
    "Experiment",
    "ExternalServer",
    "Fault",
    "FaultInjector",
    "FaultProxy",
    "LatencyProxy",
    "Match",
    "MpimSystem",
    "Result",
    "Run",
    "Trace",
    "TrialFailure",
    "Verdict",
    "Workload",
    "check",
    "check_effects",
    "check_trace",
    "load_questions",
    "open_server",
    "parameter",
    "schedule_faults",
    "serve",
]

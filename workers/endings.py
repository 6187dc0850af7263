"""Every way in which an episode can end, who caused it, and what is recorded: the table in docs/security.md.

`tests/workers/test_endings.py` brings each of them about and holds the record to it.
"""

from dataclasses import dataclass
from typing import Literal

from workers.records import FailureKind

RETRIED_FAILURES: frozenset[FailureKind] = frozenset({"policy", "version", "sandbox", "worker", "node"})
"""Failures that may pass: the keys of `episode.attempts`. The others are final."""

EpisodeOutcome = Literal["score", "failed and final", "failed and tried again"]
TEST_SCORE = "what the hidden tests say"
ZERO_SCORE = "0, with the metric `session_ended`"


@dataclass(frozen=True)
class EpisodeEnding:
    """One way in which an episode can end."""

    name: str
    """Names its proof."""
    what: str
    """What happens."""
    who: str
    """Who caused it."""
    failure: FailureKind | None = None
    """What kind of failure it is on record as; None where it is a score."""
    score: str | None = None
    """What the score is, where it is one."""

    @property
    def outcome(self) -> EpisodeOutcome:
        """The outcome of the episode: a score, or a failure that is final or tried again."""
        if self.failure is None:
            return "score"
        return "failed and tried again" if self.failure in RETRIED_FAILURES else "failed and final"

    @property
    def outcome_text(self) -> str:
        """The outcome in the words of the table in docs/security.md."""
        return f"{self.outcome}: {self.score or f'`{self.failure}`'}"


_POLICY, _INSIDE = "the policy", "the policy's code"
_OUTSIDE = "the machine, the engine, or somebody with access to them"
_AUTHOR = "the environment's or the task's author"

ENDINGS: tuple[EpisodeEnding, ...] = (
    EpisodeEnding("last-words", "The policy gives its last answer.", _POLICY, score=TEST_SCORE),
    EpisodeEnding(
        "turns-over", "The episode has used all its turns (`max_turns`).", _POLICY, score=TEST_SCORE
    ),
    EpisodeEnding(
        "prompt-outgrown",
        "After the first turn, the prompt gets longer than the policy's context.",
        _POLICY,
        score=TEST_SCORE,
    ),
    EpisodeEnding(
        "tools-time-over", "Its tool calls have together taken `tools_timeout`.", _POLICY, score=TEST_SCORE
    ),
    EpisodeEnding(
        "call-fails",
        "A tool call is malformed or too large, runs out of memory or descriptors, or takes too long: "
        "the tool's answer says so, and the episode goes on.",
        _INSIDE,
        score=TEST_SCORE,
    ),
    EpisodeEnding(
        "agent-ends",
        "An agent ends, with whatever exit code, or reaches one of its limits and is killed.",
        _POLICY,
        score=TEST_SCORE,
    ),
    EpisodeEnding(
        "agent-harmed",
        "Code in the sandbox removes what an agent needs, or asks the policy for what can't be sent or what "
        "its server fails at, while it answers other calls: the call is refused, and the episode goes on.",
        _INSIDE,
        score=TEST_SCORE,
    ),
    EpisodeEnding(
        "workspace-untold",
        "The state of its workspace can't be recorded, or not in full: the state patches are left out.",
        _INSIDE,
        score=TEST_SCORE,
    ),
    EpisodeEnding(
        "examination-broken",
        "The submission breaks the test that examines it: it has itself traced, runs for ever, prints too "
        "much, or uses up processes, memory, disk or descriptors. That test has failed.",
        _INSIDE,
        score=TEST_SCORE,
    ),
    EpisodeEnding(
        "unkillable",
        "Its processes multiply faster than they can be killed before grading.",
        _INSIDE,
        score="0",
    ),
    EpisodeEnding(
        "session-ended",
        "The session's process is killed, crashes, or reaches a limit.",
        _INSIDE,
        score=ZERO_SCORE,
    ),
    EpisodeEnding(
        "session-silent", "The session does not answer within its time limit.", _INSIDE, score=ZERO_SCORE
    ),
    EpisodeEnding(
        "session-babbles",
        "The session breaks the protocol, or sends a malformed answer.",
        _INSIDE,
        score=ZERO_SCORE,
    ),
    EpisodeEnding(
        "memory",
        "The container's memory runs out, and the kernel ends the session or the whole container.",
        _INSIDE,
        score=ZERO_SCORE,
    ),
    EpisodeEnding(
        "tool-host-silent",
        "The tool host ends with an error or does not answer, and the engine reports that the container is "
        "not paused and was not ended from outside.",
        _INSIDE,
        score=ZERO_SCORE,
    ),
    EpisodeEnding(
        "closing-fails",
        "The score is there, and then closing the session fails or takes too long.",
        "anybody",
        score="as it was",
    ),
    EpisodeEnding(
        "no-score-for-it",
        "With `recycle: episode`, in an environment other than `shell`: the session or its container ends "
        "from within, as above. Such an environment has no score for this.",
        _INSIDE,
        failure="task",
    ),
    EpisodeEnding(
        "set-up-refused", "The toolset refuses the task, or setting it up takes too long.", _AUTHOR, "task"
    ),
    EpisodeEnding(
        "tests-do-not-load", "There are no hidden tests, or they do not load.", _AUTHOR, "environment"
    ),
    EpisodeEnding(
        "agent-without-calls",
        "An agent does not start, or ends without a model call.",
        _AUTHOR,
        "environment",
    ),
    EpisodeEnding(
        "environment-raises", "The environment's own code or a tool raises an error.", _AUTHOR, "environment"
    ),
    EpisodeEnding(
        "episode-timeout",
        "`episode.timeout` runs out. (Programs in the sandbox have shorter time limits of their own.)",
        "the policy's own time, or the machine's",
        "task",
    ),
    EpisodeEnding(
        "one-of-many",
        "In a container with several sessions: the session misses its limit, breaks the protocol, or is "
        "ended because it used most of the memory.",
        _INSIDE,
        "task",
    ),
    EpisodeEnding(
        "unknown-of-many",
        "In a container with several sessions: the session's process ends in another way, or lacks memory or "
        "processes that others may have used up, or the whole container ends.",
        "not known: its own code, or a neighbour's",
        "sandbox",
    ),
    EpisodeEnding(
        "ended-from-outside",
        "The container is killed, stopped, paused or removed, or its tool host is killed.",
        _OUTSIDE,
        "sandbox",
    ),
    EpisodeEnding("engine-gone", "The engine is gone or does not answer.", _OUTSIDE, "sandbox"),
    EpisodeEnding("no-sandbox", "A sandbox does not start.", _OUTSIDE, "sandbox"),
    EpisodeEnding(
        "before-first-call",
        "A session's process or its container ends before the policy has called a tool.",
        _OUTSIDE,
        "sandbox",
    ),
    EpisodeEnding(
        "policy-fails",
        "The policy does not answer, or its answer is malformed.",
        "the policy's server",
        "policy",
    ),
    EpisodeEnding(
        "first-prompt",
        "The very first prompt is longer than the policy's context.",
        "the config, or the task's author",
        "policy",
    ),
    EpisodeEnding(
        "version-gone",
        "The weights that the episode needs are gone, or it is too stale (`policy.max_version_lag`).",
        "the trainer",
        "version",
    ),
    EpisodeEnding("worker-dies", "The worker dies.", _OUTSIDE, "worker"),
    EpisodeEnding("node-lost", "The node under the worker is lost.", _OUTSIDE, "node"),
)

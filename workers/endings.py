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
    EpisodeEnding("last-words", "The policy says its last words.", _POLICY, score=TEST_SCORE),
    EpisodeEnding("turns-over", "Its turns are over (`max_turns`).", _POLICY, score=TEST_SCORE),
    EpisodeEnding(
        "prompt-outgrown",
        "Its prompt outgrows its context after the first turn.",
        _POLICY,
        score=TEST_SCORE,
    ),
    EpisodeEnding(
        "tools-time-over", "Its tool calls together reach `tools_timeout`.", _POLICY, score=TEST_SCORE
    ),
    EpisodeEnding(
        "call-fails",
        "A call is malformed, too large, lacks memory or descriptors, or outlives its limit: the answer says "
        "so, and the episode goes on.",
        _INSIDE,
        score=TEST_SCORE,
    ),
    EpisodeEnding(
        "workspace-untold",
        "What it leaves in the workspace can't be told on record, or not in full: the patches are left out.",
        _INSIDE,
        score=TEST_SCORE,
    ),
    EpisodeEnding(
        "examination-broken",
        "A submission breaks what examines it: it has itself traced, runs for ever, says too much, leaves no "
        "processes, memory, disk or descriptors. That test has failed.",
        _INSIDE,
        score=TEST_SCORE,
    ),
    EpisodeEnding(
        "unkillable",
        "Its processes multiply faster than they can be killed before it is examined.",
        _INSIDE,
        score="0",
    ),
    EpisodeEnding(
        "session-ended",
        "The session's process ends: it is killed, crashes, or reaches a limit.",
        _INSIDE,
        score=ZERO_SCORE,
    ),
    EpisodeEnding(
        "session-silent", "The session does not answer within its limit.", _INSIDE, score=ZERO_SCORE
    ),
    EpisodeEnding(
        "session-babbles",
        "The session breaks the protocol, or answers out of form.",
        _INSIDE,
        score=ZERO_SCORE,
    ),
    EpisodeEnding(
        "memory",
        "The container's memory runs out, and the kernel ends the session, or all of the container.",
        _INSIDE,
        score=ZERO_SCORE,
    ),
    EpisodeEnding(
        "tool-host-silent",
        "The tool host ends with an error or does not answer, while the engine answers, and says that the "
        "container is neither paused nor was ended from outside.",
        _INSIDE,
        score=ZERO_SCORE,
    ),
    EpisodeEnding(
        "closing-fails",
        "Closing the session fails, or takes too long, when the score is there.",
        "anybody",
        score="as it was",
    ),
    EpisodeEnding(
        "no-score-for-it",
        "The session or its container ends from within, as above, in another environment than `shell`, which "
        "has no score for it, with `recycle: episode`.",
        _INSIDE,
        failure="task",
    ),
    EpisodeEnding(
        "set-up-refused", "The toolset refuses the task, or its set-up takes too long.", _AUTHOR, "task"
    ),
    EpisodeEnding("tests-do-not-load", "The hidden tests are none, or do not load.", _AUTHOR, "environment"),
    EpisodeEnding(
        "environment-raises", "The environment's own code raises, or a tool does.", _AUTHOR, "environment"
    ),
    EpisodeEnding(
        "episode-timeout",
        "`episode.timeout` runs out. What runs in the sandbox has less time than that by itself.",
        "the policy's own time, or the machine's",
        "task",
    ),
    EpisodeEnding(
        "one-of-many",
        "In a container of many: a session misses its limit, breaks the protocol, or is the one that the "
        "kernel ends for its memory.",
        _INSIDE,
        "task",
    ),
    EpisodeEnding(
        "unknown-of-many",
        "In a container of many: a session's process ends otherwise, or lacks room that others may have "
        "taken, or the container ends as a whole.",
        "it can't be told: its own code, or a neighbour's",
        "sandbox",
    ),
    EpisodeEnding(
        "ended-from-outside",
        "The container is killed, stopped, paused or removed, or its tool host is killed.",
        _OUTSIDE,
        "sandbox",
    ),
    EpisodeEnding("engine-gone", "The engine is gone or does not answer.", _OUTSIDE, "sandbox"),
    EpisodeEnding("no-sandbox", "A sandbox does not come up.", _OUTSIDE, "sandbox"),
    EpisodeEnding(
        "before-first-call",
        "A session's process or its container ends before the policy has called a tool.",
        _OUTSIDE,
        "sandbox",
    ),
    EpisodeEnding(
        "policy-fails", "The policy does not answer, or not in form.", "the policy's server", "policy"
    ),
    EpisodeEnding(
        "first-prompt",
        "The very first prompt is longer than the policy's context.",
        "the config, or the task's author",
        "policy",
    ),
    EpisodeEnding("version-gone", "The policy's versions go on under the episode.", "the trainer", "version"),
    EpisodeEnding("worker-dies", "The worker dies.", _OUTSIDE, "worker"),
    EpisodeEnding("node-lost", "The node under the worker is lost.", _OUTSIDE, "node"),
)

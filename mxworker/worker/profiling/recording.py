"""Where the threads of a process spent their CPU time, and the same as a document for speedscope.

A stack is the line of its innermost frame, then the code of each frame, the innermost first. So the innermost frames
of a function differ by line, and its other frames do not: the time of a function adds up, and the hot line is seen.

Pure. The form of the document is at https://github.com/jlfwong/speedscope/wiki/Importing-from-custom-sources.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import CodeType
from typing import Any

MOST_SAMPLES = 200_000
"""How many samples are kept, of all threads together; those that follow are counted. A sample is one reference."""

Stack = tuple[int, tuple[CodeType, ...]]

_NS_PER_US = 1000


@dataclass(slots=True)
class ThreadRecording:
    """The samples of one thread in their order. Equal samples that follow each other are one, with the sum as weight.

    The label of a sample says for what the thread worked, or is "".
    """

    name: str
    samples: list[tuple[str, Stack]] = field(default_factory=list)
    weights_ns: list[int] = field(default_factory=list)


class Recording:
    """The samples of all threads."""

    def __init__(self) -> None:
        self._threads: dict[int, ThreadRecording] = {}
        self._stacks: dict[tuple[str, Stack], tuple[str, Stack]] = {}  # one object for equal samples
        self.kept = 0
        self.dropped = 0

    def add(self, thread_id: int, thread: str, label: str, stack: Stack, cpu_ns: int) -> None:
        """Add that a thread spent `cpu_ns` in `stack`."""
        recording = self._threads.get(thread_id)
        if recording is None:
            recording = self._threads[thread_id] = ThreadRecording(thread)
        sample = self._stacks.setdefault((label, stack), (label, stack))
        if recording.samples and recording.samples[-1] is sample:
            recording.weights_ns[-1] += cpu_ns
        elif self.kept == MOST_SAMPLES:
            self.dropped += 1
        else:
            recording.samples.append(sample)
            recording.weights_ns.append(cpu_ns)
            self.kept += 1

    def speedscope(self, title: str, exporter: str) -> dict[str, Any]:
        """Return the document, with one profile for each thread, the busiest first. Weights are in microseconds."""
        frames = _Frames()
        threads = sorted(self._threads.values(), key=lambda thread: -sum(thread.weights_ns))
        return {
            "$schema": "https://www.speedscope.app/file-format-schema.json",
            "name": title,
            "exporter": exporter,
            "activeProfileIndex": 0,
            "profiles": [_profile(thread, frames) for thread in threads],
            "shared": {"frames": frames.listed},
        }


def joined(document: dict[str, Any], others: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Return a document with the profiles of others too, whose keys are put before the names of their threads."""
    frames, profiles = list(document["shared"]["frames"]), list(document["profiles"])
    for name, other in others.items():
        first = len(frames)
        frames += other["shared"]["frames"]
        for profile in other["profiles"]:
            samples = [[first + number for number in sample] for sample in profile["samples"]]
            profiles.append({**profile, "name": f"{name}: {profile['name']}", "samples": samples})
    profiles.sort(key=lambda profile: -profile["endValue"])
    return {**document, "profiles": profiles, "shared": {"frames": frames}}


class _Frames:
    """The frames of a document, each with its number. A frame for a label has no file."""

    def __init__(self) -> None:
        self.listed: list[dict[str, Any]] = []
        self._numbers: dict[tuple[str, str, int], int] = {}
        self._of_sample: dict[tuple[str, Stack], list[int]] = {}

    def of(self, sample: tuple[str, Stack]) -> list[int]:
        """Return the numbers of a sample's frames, the outermost first."""
        found = self._of_sample.get(sample)
        if found is None:
            label, (line, codes) = sample
            found = [self._number(code, code.co_firstlineno) for code in reversed(codes[1:])]
            found += [self._number(code, line) for code in codes[:1]]
            if label:
                found.insert(0, self._numbered(label, "", 0))
            self._of_sample[sample] = found
        return found

    def _number(self, code: CodeType, line: int) -> int:
        return self._numbered(code.co_qualname, code.co_filename, line)

    def _numbered(self, name: str, file: str, line: int) -> int:
        key = name, file, line
        if key not in self._numbers:
            self._numbers[key] = len(self.listed)
            self.listed.append({"name": name, "file": file, "line": line} if file else {"name": name})
        return self._numbers[key]


def _profile(thread: ThreadRecording, frames: _Frames) -> dict[str, Any]:
    weights = [max(1, weight_ns // _NS_PER_US) for weight_ns in thread.weights_ns]
    return {
        "type": "sampled",
        "name": thread.name,
        "unit": "microseconds",
        "startValue": 0,
        "endValue": sum(weights),
        "samples": [frames.of(sample) for sample in thread.samples],
        "weights": weights,
    }

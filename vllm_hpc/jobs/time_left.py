"""How long the rest of a job's rows will take, from the tokens that its replicas generate now.

Rows that have finished are the short ones: of those that began together, the long ones still run. So their lengths are
estimated as lifetimes are, from both (Kaplan and Meier, 1958): a sequence in flight counts as one that is longer than
it is so far. The rest is then played through, for the engine runs only so many at once, and empties at the end.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Iterable
from itertools import islice

from vllm_hpc.jobfolder.records import Pace

# Sequences that the play runs at once; a larger engine's are counted by samples.
_MOST_SLOTS = 256
# Waves of the rest that are played through one by one; what is before them keeps the engine full.
_WAVES = 4
# A sequence that is longer than all that have ended may become so many times longer, unless most are like it.
_LONGER = 1.5
# No count of a job, and no time, is larger.
_MOST = 1e15
# Fractions that are spread evenly, however many there are.
_GOLDEN = 0.618033988749895


class Lives:
    """How long answers are: the share of them that is longer than each length.

    ``ended``, ``begun``: how many, and their tokens in all (records.Pace). ``most`` is max_tokens, None if unknown.
    """

    def __init__(
        self, ended: Iterable[tuple[int, int]], begun: Iterable[tuple[int, int]], most: int | None = None
    ) -> None:
        events = sorted([(tokens / count, count, 0) for count, tokens in ended])
        running = sorted([(tokens / count, 0, count) for count, tokens in begun])
        at_risk = sum(count for _, count, _ in events) + sum(count for _, _, count in running)
        # Of equal lengths those that end are first, as one in flight is longer.
        self._lengths, self._longer, left = [0.0], [1.0], 1.0
        for length, dead, alive in sorted([*events, *running], key=lambda one: (one[0], -one[1])):
            if dead:
                left *= 1 - dead / at_risk
                self._lengths.append(length)
                self._longer.append(left)
            at_risk -= dead + alive
        longest = max([self._lengths[-1], *(length for length, _, _ in running)])
        if left > 1e-9:
            self._lengths.append(self._last(longest, left, most))
            self._longer.append(0.0)
        self._negative = [-share for share in self._longer]

    @staticmethod
    def _last(longest: float, left: float, most: int | None) -> float:
        """The length of those that are longer than any that has ended."""
        guess = longest * _LONGER
        if most is None:
            return guess
        bound = max(float(most), longest)
        return left * bound + (1 - left) * min(bound, guess)

    def longer_than(self, length: float) -> float:
        """The share of answers that is longer."""
        place = bisect_left(self._lengths, length + 1e-9) - 1
        return self._longer[max(0, place)]

    def quantile(self, share: float) -> float:
        """The length than which this share of answers is longer."""
        place = bisect_left(self._negative, -share)
        return self._lengths[min(place, len(self._lengths) - 1)]

    def left_of(self, length: float, chance: float) -> float:
        """Tokens that a sequence of this length still has to come, for one of its chances from 0 to 1."""
        return max(1.0, self.quantile(chance * self.longer_than(length)) - length)

    def mean(self) -> float:
        """The mean length."""
        pairs = zip(self._lengths, self._lengths[1:], self._longer, strict=False)
        return sum((after - before) * share for before, after, share in pairs)


def is_plausible(pace: Pace) -> bool:
    """Whether its numbers are those of an engine: the folder may be another user's."""
    groups = (*pace.ended, *pace.begun)
    return (
        1e-3 <= pace.seconds < _MOST
        and 0 <= pace.tokens < _MOST
        and 0 <= pace.slot_seconds < _MOST
        and 0 <= pace.fixed <= 1
        and all(0 < count < _MOST and 0 <= tokens < _MOST for count, tokens in groups)
    )


def seconds_left(paces: list[Pace], unstarted: float, lives: Lives) -> float | None:
    """Seconds until all is done; None where nothing has run yet. The paces are plausible.

    ``unstarted``: sequences that no engine has begun. The replicas are taken for one engine, since each takes rows as
    it has room for them.
    """
    slot_tokens, busy = sum(one.tokens for one in paces), sum(one.slot_seconds for one in paces)
    begun = sorted((tokens / count, count) for one in paces for count, tokens in one.begun)
    flying = sum(count for _, count in begun)
    usual = sum(one.slot_seconds / one.seconds for one in paces)
    slots = max(1.0, usual if unstarted >= 1 else flying)
    if not slot_tokens or not busy or not (flying or unstarted):
        return None
    scale = max(1.0, slots / _MOST_SLOTS)
    chances = ((number * _GOLDEN) % 1.0 for number in range(1, 1 << 62))
    lengths = list(_thinned(begun, max(1, round(flying / scale)))) if flying else []
    ends = [lives.left_of(length, chance) for length, chance in zip(lengths, chances, strict=False)]
    fixed = sum(one.fixed * one.slot_seconds for one in paces) / busy
    steps = _play(ends, unstarted / scale, max(1, round(slots / scale)), lives, fixed)
    return steps * busy / slot_tokens


def _thinned(groups: list[tuple[float, int]], count: int) -> Iterable[float]:
    """So many lengths that stand for those of all groups."""
    whole, place, passed = sum(number for _, number in groups), 0, groups[0][1]
    for number in range(count):
        while (number + 0.5) * whole / count > passed:
            place += 1
            passed += groups[place][1]
        yield groups[place][0]


def _play(ends: list[float], unstarted: float, slots: int, lives: Lives, fixed: float) -> float:
    """Steps of a full engine until all have ended, of which ``ends`` run and have so many tokens to come."""
    played = min(unstarted, float(_WAVES * slots))
    before = (unstarted - played) * lives.mean() / slots
    count = round(played)
    chances = (((number + 0.5) * _GOLDEN) % 1.0 for number in range(count))
    heapq.heapify(ends)
    for length in (lives.left_of(0.0, chance) for chance in chances):
        began = heapq.heappop(ends) if len(ends) >= slots else 0.0
        heapq.heappush(ends, began + length)
    if not ends:
        return before
    ends.sort()
    full = min(slots, len(ends))
    # From here on nothing follows what ends.
    emptying = ends[-full:]
    total, at = before + emptying[0], emptying[0]
    for number, end in enumerate(islice(emptying, 1, None), 1):
        total += (end - at) * (fixed + (1 - fixed) * (full - number) / slots)
        at = end
    return total

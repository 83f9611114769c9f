"""Effect: what a setting changes in the answers, measured by tune."""

from __future__ import annotations

from typing import Annotated

import msgspec

Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
# No token is less likely than this to vLLM, which writes -9999 for what cannot occur.
LogLikelihood = Annotated[float, msgspec.Meta(ge=-10_000, le=0)]


class Effect(msgspec.Struct, frozen=True, kw_only=True):
    """Greedy answers with a setting, against those without what it changes.

    ``rows``: answers compared; ``equal_rows``: the share that is equal; ``equal_tokens``: the share of all tokens that
    stand before a row's first difference. ``log_likelihood``: what the setting gives to the answers without it, and
    ``own_log_likelihood`` what these have themselves: natural logarithms, a token's mean. None: not told by the engine.
    """

    rows: int
    equal_rows: Share
    equal_tokens: Share
    log_likelihood: LogLikelihood | None = None
    own_log_likelihood: LogLikelihood | None = None

    def __str__(self) -> str:
        told = (
            f"of {self.rows} greedy answers {self.equal_rows:.0%} are equal, and {self.equal_tokens:.0%} of their "
            "tokens stand before a difference"
        )
        if self.log_likelihood is None or self.own_log_likelihood is None:
            return told
        return (
            f"{told}; log-likelihood a token of the answers without it {self.log_likelihood:.3f}, their own "
            f"{self.own_log_likelihood:.3f}"
        )

"""Whether Slurm's accounting knows the account and the QOS for this user, where it is on and answers."""

from __future__ import annotations

from collections.abc import Iterator

from vllm_hpc.schedulers.client import Ask, ClientError
from vllm_hpc.schedulers.slurm.associations import ask_associations
from vllm_hpc.spec.finding import Finding

_MOST_NAMED = 8


def judge_accounts(ask: Ask, account: str | None, qos: str | None) -> Iterator[Finding]:
    """Look up the user's associations. A site may keep its accounts elsewhere: then nothing is said against one."""
    try:
        own = ask_associations(ask)
    except ClientError as error:
        yield Finding("account", "skip", f"not looked up: {str(error).partition(':')[0]}")
        return
    accounts = sorted({one.account for one in own})
    if not accounts:
        yield Finding("account", "skip", "accounting names none for you")
        return
    named = ", ".join(accounts[:_MOST_NAMED])
    if account is not None and account.lower() not in accounts:  # Slurm stores them in lower case
        yield Finding("account", "fail", f"{account!r} is not one of yours: {named}", "name one of them with --account")
    else:
        yield Finding("account", "ok", account or f"your default; you have {named}")
    known = {name for one in own for name in one.qos if account is None or account.lower() == one.account}
    if qos is not None and known and qos not in known:
        words = f"{qos!r} is not one of yours: {', '.join(sorted(known)[:_MOST_NAMED])}"
        yield Finding("qos", "fail", words, "name one of them with --qos")

"""What kubectl prints as JSON of jobs and pods: the fields that are read, of PyTorchJob, TrainJob and Pod alike."""

from __future__ import annotations

import msgspec

from vllm_hpc.schedulers.client import ClientError


class Metadata(msgspec.Struct, frozen=True):
    """Names and labels. Times are in RFC 3339."""

    name: str = ""
    namespace: str = ""
    labels: dict[str, str] | None = None
    uid: str = ""
    creationTimestamp: str | None = None  # noqa: N815 - the API's names
    deletionTimestamp: str | None = None  # noqa: N815


class Condition(msgspec.Struct, frozen=True):
    """One fact about an object, with the time left out."""

    type: str = ""
    status: str = ""
    reason: str | None = None
    message: str | None = None

    @property
    def words(self) -> str:
        """The message, else the reason."""
        return self.message or self.reason or ""


class Waiting(msgspec.Struct, frozen=True):
    """Why a container has not started."""

    reason: str | None = None
    message: str | None = None


class Terminated(msgspec.Struct, frozen=True):
    """How a container ended."""

    exitCode: int = 0  # noqa: N815
    reason: str | None = None
    message: str | None = None


class ContainerState(msgspec.Struct, frozen=True):
    """One of the two, or neither while it runs."""

    waiting: Waiting | None = None
    terminated: Terminated | None = None


class ContainerStatus(msgspec.Struct, frozen=True):
    """A container of a pod."""

    name: str = ""
    state: ContainerState | None = None
    lastState: ContainerState | None = None  # noqa: N815


class ChildJobs(msgspec.Struct, frozen=True):
    """A TrainJob's count of its jobs."""

    name: str = ""
    ready: int | None = None


class Status(msgspec.Struct, frozen=True):
    """The status of a job or a pod."""

    conditions: list[Condition] | None = None
    phase: str | None = None
    reason: str | None = None
    message: str | None = None
    initContainerStatuses: list[ContainerStatus] | None = None  # noqa: N815
    containerStatuses: list[ContainerStatus] | None = None  # noqa: N815
    jobsStatus: list[ChildJobs] | None = None  # noqa: N815

    def having(self, *types: str) -> Condition | None:
        """The first condition of these types that is true."""
        true = [one for one in self.conditions or [] if one.status == "True"]
        return next((one for wanted in types for one in true if one.type == wanted), None)


class Seen(msgspec.Struct, frozen=True):
    """A job, or a pod."""

    kind: str = ""
    metadata: Metadata = Metadata()
    status: Status = Status()

    def label(self, name: str) -> str:
        """A label's value; empty if it has none."""
        return (self.metadata.labels or {}).get(name, "")


class _Answer(Seen, frozen=True):
    items: list[Seen] | None = None


def parse(answer: str) -> list[Seen]:
    """What 'kubectl get -o json' printed: one object, a list of them, or nothing. Raises ClientError."""
    if not answer.strip():
        return []
    try:
        found = msgspec.json.decode(answer.encode(errors="replace"), type=_Answer)
    except msgspec.DecodeError as error:
        raise ClientError(
            f"kubectl's answer is not understood ({error}): is there a proxy before the cluster?"
        ) from None
    return [found] if found.items is None else found.items

"""Which errors of a rank are its own, and which only echo another's end."""

from __future__ import annotations

import pytest

from vllm_hpc.engine.report import is_echo


class DistBackendError(RuntimeError):
    """As torch.distributed's, by name."""


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[/pytorch/third_party/gloo/transport/tcp/pair.cc:538] Connection closed by peer [10.0.0.2]:41"),
        RuntimeError("Connection reset by peer"),
        RuntimeError("Application timeout caused pair closure"),
        RuntimeError("NCCL communicator was aborted on rank 3."),
        RuntimeError("ncclRemoteError: A call failed possibly due to a network error or a remote process exiting"),
        DistBackendError("anything"),
    ],
)
def test_the_end_of_a_peer_is_an_echo(error: Exception) -> None:
    assert is_echo(error)


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device: '/scratch/peerreview/connection closed'"),
        ConnectionRefusedError("the Hub: connection refused"),
        RuntimeError("CUDA error: peer mapping resources exhausted"),
        RuntimeError("the ranks of replica 0 diverged"),
        ValueError("broken pipe"),
        AssertionError(),
    ],
)
def test_a_ranks_own_error_is_none(error: Exception) -> None:
    assert not is_echo(error)

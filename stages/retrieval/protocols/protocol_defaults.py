"""What goes with a protocol: the metrics scored where nobody says otherwise, and whether others and policies can be."""

from __future__ import annotations

from collections.abc import Sequence

from cache.errors import SettingsError
from stages.ranking.metrics import find_metric
from stages.ranking.tie_averaging import AVERAGED, check_averaged
from stages.retrieval.attributes import LEGACY
from stages.retrieval.protocols import MetConfig, ProtocolConfig, SmallDataConfig
from stages.retrieval.recognition import RECOGNITION, check_recognition


def default_metrics(protocol: ProtocolConfig) -> tuple[str, ...]:
    """The metrics of a run file, or a call, that names none."""
    match protocol:
        case MetConfig():
            return RECOGNITION
        case SmallDataConfig():
            return (LEGACY,)
        case _:
            return protocol.rules().metrics


def check_metrics(metrics: Sequence[str], protocol: ProtocolConfig, ties: str) -> None:
    """Raise ValueError unless ``metrics`` by label are there, and can be had by the protocol and policy."""
    if isinstance(protocol, MetConfig):
        if metrics:
            check_recognition(metrics)
        return
    for name in metrics:
        if name in RECOGNITION:
            raise SettingsError(f'{name} is a metric of recognition: protocol = {{ kind = "met" }}')
        metric = find_metric(name)
        if ties == AVERAGED:
            check_averaged(metric)


def check_policies(protocol: ProtocolConfig, ties: str, unanswerable: str) -> None:
    """Raise ValueError where a policy would change nothing, because the protocol settles it."""
    if isinstance(protocol, MetConfig | SmallDataConfig) and (ties, unanswerable) != ("row", "leave_out"):
        raise SettingsError(
            f"protocol {protocol.kind} says itself what counts where similarities tie or nothing is relevant: leave "
            "out ties and unanswerable"
        )

"""Which steps deserve a preview: pure arithmetic, the same for every backend."""

from imagen.core.request import PreviewPolicy

AUTO_INTERVAL_MS = 150  # a run of a third of a second shows two, for less than a hundredth of its time
AUTO_COUNT = 8  # enough to watch a picture form, few enough to cost nothing, for 4 steps and for 50


def wanted_steps(policy: PreviewPolicy, total: int) -> frozenset[int]:
    """The 1-based steps to preview. Never the last: the finished picture follows it at once."""
    if policy.off or total < 2:
        return frozenset()
    if policy.stride is not None:
        return frozenset(range(policy.stride, total, policy.stride))
    count = min(policy.count or AUTO_COUNT, total - 1)
    # Evenly spread over the run, the first one early: somebody wants to know whether to cancel.
    return frozenset(max(1, round(k * total / (count + 1))) for k in range(1, count + 1))


def interval_ms(policy: PreviewPolicy) -> int:
    """The shortest time between two previews. What was asked by number is not thinned unless that is asked too."""
    if policy.count is not None:
        return 0
    if policy.min_interval_ms is not None:
        return policy.min_interval_ms
    return AUTO_INTERVAL_MS if policy.stride is None else 0


def promised(policy: PreviewPolicy | None) -> bool:
    """An explicit count is a promise: those frames are buffered and never thinned."""
    return policy is not None and policy.count is not None and not policy.off


def merge(asked: PreviewPolicy | None, *fallbacks: PreviewPolicy | None) -> PreviewPolicy:
    """The policy in force: the request's, else the model's, else the server's, else the default."""
    for policy in (asked, *fallbacks):
        if policy is not None:
            return policy
    return PreviewPolicy()


def unhonoured(policy: PreviewPolicy, total: int) -> str | None:
    """Why an explicit wish gives no or fewer previews, in words; None when it is met."""
    if policy.off or (policy.stride is None and policy.count is None):
        return None
    if total < 2:
        return "a run of one step has no previews: the picture itself comes next"
    if policy.stride is not None and policy.stride >= total:
        return f"a preview stride of {policy.stride} gives no preview in a run of {total} steps"
    if policy.count is not None and policy.count > total - 1:
        return f"{policy.count} previews were asked, a run of {total} steps has {total - 1}"
    return None

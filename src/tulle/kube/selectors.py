"""Label selectors, evaluated here as the API server evaluates them, so that caches can be searched without
asking it.
"""

from collections.abc import Mapping

from tulle.kube.objects.meta import LabelSelector, LabelSelectorRequirement


def matches(selector: LabelSelector, labels: Mapping[str, str]) -> bool:
    """Whether ``labels`` satisfy ``selector``; an empty selector matches everything (meta/v1 LabelSelector)."""
    return matches_labels(selector.match_labels, labels) and all(
        matches_requirement(requirement, labels) for requirement in selector.match_expressions
    )


def matches_labels(wanted: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Whether every pair of ``wanted`` is in ``labels``."""
    return all(labels.get(key) == value for key, value in wanted.items())


def matches_requirement(requirement: LabelSelectorRequirement, labels: Mapping[str, str]) -> bool:
    """One requirement. NotIn and DoesNotExist hold for an absent key; an operator that is not known never holds."""
    found = labels.get(requirement.key)
    match requirement.operator:
        case "In":
            return found is not None and found in requirement.values
        case "NotIn":
            return found is None or found not in requirement.values
        case "Exists":
            return found is not None
        case "DoesNotExist":
            return found is None
        case "Gt" | "Lt":
            return _compares(found, requirement)
        case _:
            return False


def _compares(found: str | None, requirement: LabelSelectorRequirement) -> bool:
    if found is None or len(requirement.values) != 1:
        return False
    try:
        left, right = int(found), int(requirement.values[0])
    except ValueError:
        return False
    return left > right if requirement.operator == "Gt" else left < right


def to_query(selector: LabelSelector) -> str:
    """The selector as the ``labelSelector`` parameter of a request."""
    parts = [f"{key}={value}" for key, value in sorted(selector.match_labels.items())]
    for requirement in selector.match_expressions:
        values = ",".join(requirement.values)
        match requirement.operator:
            case "In":
                parts.append(f"{requirement.key} in ({values})")
            case "NotIn":
                parts.append(f"{requirement.key} notin ({values})")
            case "Exists":
                parts.append(requirement.key)
            case "DoesNotExist":
                parts.append(f"!{requirement.key}")
            case other:
                raise ValueError(f"selector operator {other!r} is not one of In, NotIn, Exists, DoesNotExist")
    return ",".join(parts)

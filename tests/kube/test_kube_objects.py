"""Built-in objects as any client may have written them: what one object lacks must not keep a cache from all the others."""

import inspect

import msgspec
import pytest

from tulle.kube import objects, resources
from tulle.kube.codec import decode, decode_list
from tulle.kube.objects import core, meta, network, pod, volumes
from tulle.kube.objects.meta import Part

PARTS = [
    part
    for module in (meta, core, pod, volumes, objects.apps)
    for _, part in inspect.getmembers(module, inspect.isclass)
    if issubclass(part, Part) and part.__module__ == module.__name__
] + [network.EndpointSlice, network.Endpoint, network.EndpointPort]


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__name__)
def test_a_field_that_is_absent_reads_as_empty_as_it_does_in_go(part: type[Part]) -> None:
    assert isinstance(msgspec.json.decode(b"{}", type=part), part)


def test_a_pod_that_leaves_out_what_the_api_does_not_check_is_listed_with_the_others() -> None:
    odd = '{"metadata":{"name":"odd"},"spec":{"hostAliases":[{"hostnames":["a"]}]},"status":{"conditions":[{}]}}'
    _, found = decode_list(f'{{"items":[{odd},{{"metadata":{{"name":"plain"}}}}]}}'.encode(), resources.PODS)
    assert [one.metadata.name for one in found] == ["odd", "plain"]


def test_a_revision_may_hold_any_json() -> None:
    found = decode(b'{"metadata":{"name":"x"},"data":[1]}', resources.CONTROLLER_REVISIONS.type, "")
    assert found.data == [1]

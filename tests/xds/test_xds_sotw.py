"""The state-of-the-world form gives the same content, whole each time."""

from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf.wrappers_pb2 import StringValue

from tulle.xds import types
from tulle.xds.resources import ResourceMap
from tulle.xds.sotw import SotwStream


class Tool:
    """A client of the older form."""

    def __init__(self, type_url: str) -> None:
        self.resources = ResourceMap(type_url)
        self.type_url = type_url
        self.stream = SotwStream.make(lambda _: self.resources, lambda: None)
        self.nonce = ""

    def set(self, name: str, value: str) -> None:
        self.resources.set(name, StringValue(value=value))

    def ask(self, *names: str, nonce: str | None = None, error: str = "") -> None:
        request = discovery_pb2.DiscoveryRequest(type_url=self.type_url, resource_names=names)
        request.response_nonce = self.nonce if nonce is None else nonce
        if error:
            request.error_detail.message = error
        self.rejection = self.stream.receive(request)

    def answers(self) -> list[list[str]]:
        found = []
        for push in self.stream.pushes():
            response = discovery_pb2.DiscoveryResponse.FromString(push.encode())
            self.nonce = response.nonce
            found.append([StringValue.FromString(item.value).value for item in response.resources])
        return found


def test_everything_each_time() -> None:
    tool = Tool(types.CLUSTER)
    tool.set("a", "1")
    tool.set("b", "2")
    tool.ask()
    assert tool.answers() == [["1", "2"]]
    tool.set("a", "3")
    assert tool.answers() == []
    tool.ask()
    assert tool.answers() == [["3", "2"]]
    tool.ask()
    tool.resources.remove("b")
    assert tool.answers() == [["3"]]


def test_names_can_be_changed() -> None:
    tool = Tool(types.ENDPOINTS)
    for name in "abc":
        tool.set(name, name)
    tool.ask("a", "b")
    assert tool.answers() == [["a", "b"]]
    tool.ask("b", "c")
    assert tool.answers() == [["b", "c"]]


def test_stale_answers_mean_nothing() -> None:
    tool = Tool(types.CLUSTER)
    tool.ask()
    assert tool.answers() == [[]]
    tool.ask(nonce="of an earlier stream")
    tool.set("a", "1")
    assert tool.answers() == []
    tool.ask()
    assert tool.answers() == [["1"]]


def test_a_refusal_is_reported() -> None:
    tool = Tool(types.CLUSTER)
    tool.set("a", "1")
    tool.ask()
    tool.answers()
    tool.ask(error="no good")
    assert tool.rejection is not None
    assert tool.rejection.message == "no good"
    assert tool.answers() == []

"""Whatever happens, in whatever order, a client that has caught up holds what the server has."""

from collections import deque

from envoy.config.core.v3 import base_pb2
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf.wrappers_pb2 import StringValue
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tulle.xds import types
from tulle.xds.delta import ServerStream
from tulle.xds.delta_client import ClientState
from tulle.xds.resources import ResourceMap

# Few of each, so that what happens is likely to happen to the same thing.
NAMES = ["r0", "r1", "r2"]
ALIASES = ["a0", "a1"]
POISON = "poison"
TYPES = {
    types.ADDRESS: (True, ()),
    types.AUTHORIZATION: (True, ("r0",)),
    types.ENDPOINTS: (False, ("r0", "a0")),
    types.SECRET: (False, ()),
}


class Conversation(RuleBasedStateMachine):
    """A server and a client with a wire between them that delays, and breaks."""

    @initialize()
    def begin(self) -> None:
        self.maps = {type_url: ResourceMap(type_url) for type_url in TYPES}
        self.client = ClientState(base_pb2.Node(id="n"))
        self.names: dict[str, set[str]] = {}
        for type_url, (wildcard, names) in TYPES.items():
            self.client.add_type(type_url, wildcard=wildcard, names=names)
            self.names[type_url] = set(names)
        self.held: dict[str, dict[str, bytes]] = {type_url: {} for type_url in TYPES}
        self.server: ServerStream | None = None
        self.to_server: deque[bytes] = deque()
        self.to_client: deque[bytes] = deque()
        self.unacknowledged: dict[str, int] = {}

    # What may happen

    @rule(type_url=st.sampled_from(list(TYPES)), name=st.sampled_from(NAMES), data=st.data())
    def set_resource(self, type_url: str, name: str, data: st.DataObject) -> None:
        value = data.draw(st.sampled_from(["x", "y", POISON]))
        aliases = data.draw(st.lists(st.sampled_from(ALIASES), unique=True, max_size=2))
        self.maps[type_url].set(name, StringValue(value=value), aliases)

    @rule(type_url=st.sampled_from(list(TYPES)), name=st.sampled_from(NAMES))
    def remove_resource(self, type_url: str, name: str) -> None:
        self.maps[type_url].remove(name)

    @rule(name=st.sampled_from(NAMES))
    def give_up(self, name: str) -> None:
        self.maps[types.SECRET].give_up(name)

    @rule(type_url=st.sampled_from(list(TYPES)), name=st.sampled_from(NAMES + ALIASES))
    def subscribe(self, type_url: str, name: str) -> None:
        self.names[type_url].add(name)
        self.send(self.client.subscribe(type_url, [name]))

    @rule(type_url=st.sampled_from(list(TYPES)), name=st.sampled_from(NAMES + ALIASES))
    def unsubscribe(self, type_url: str, name: str) -> None:
        self.names[type_url].discard(name)
        self.send(self.client.unsubscribe(type_url, [name]))
        kept = self.client.versions(type_url)
        self.held[type_url] = {key: value for key, value in self.held[type_url].items() if key in kept}

    @precondition(lambda self: self.server is None)
    @rule()
    def connect(self) -> None:
        self.server = ServerStream(self.maps.get, lambda: None)
        self.send(self.client.connected())

    @precondition(lambda self: self.server is not None)
    @rule(name=st.sampled_from(NAMES))
    def change_while_away(self, name: str) -> None:
        self.settle()
        self.disconnect()
        for resources in self.maps.values():
            resources.remove(name)
        self.settle()

    @precondition(lambda self: self.server is not None)
    @rule()
    def disconnect(self) -> None:
        assert self.server is not None
        self.server.close()
        self.server = None
        self.client.disconnected()
        self.to_server.clear()
        self.to_client.clear()

    @precondition(lambda self: self.to_server)
    @rule()
    def deliver_to_server(self) -> None:
        assert self.server is not None
        self.server.receive(discovery_pb2.DeltaDiscoveryRequest.FromString(self.to_server.popleft()))

    @precondition(lambda self: self.server is not None)
    @rule()
    def server_writes(self) -> None:
        assert self.server is not None
        for push in self.server.pushes():
            self.to_client.append(push.encode())

    @precondition(lambda self: self.to_client)
    @rule()
    def deliver_to_client(self) -> None:
        update = self.client.receive(discovery_pb2.DeltaDiscoveryResponse.FromString(self.to_client.popleft()))
        held = self.held[update.type_url]
        bad = {name for name, value in update.updated.items() if StringValue.FromString(value).value == POISON}
        held.update({name: value for name, value in update.updated.items() if name not in bad})
        for name in update.removed:
            held.pop(name, None)
        if bad:
            self.send([self.client.reject(update, "poison", frozenset(bad))])
        else:
            self.send([self.client.accept(update)])

    def send(self, requests: list[discovery_pb2.DeltaDiscoveryRequest]) -> None:
        self.to_server.extend(request.SerializeToString() for request in requests)

    # What must hold

    @invariant()
    def one_push_per_type_is_unacknowledged(self) -> None:
        waiting = [discovery_pb2.DeltaDiscoveryResponse.FromString(raw).type_url for raw in self.to_client]
        assert len(waiting) == len(set(waiting))

    @rule()
    def settle(self) -> None:
        if self.server is None:
            self.connect()
        for _ in range(200):
            while self.to_server:
                self.deliver_to_server()
            self.server_writes()
            if not self.to_client:
                break
            while self.to_client:
                self.deliver_to_client()
        assert not self.to_client
        assert not self.to_server
        self.check()

    def check(self) -> None:
        assert self.server is not None
        assert self.server.synced()
        assert self.client.synced()
        for type_url, resources in self.maps.items():
            wildcard = TYPES[type_url][0]
            names = self.names[type_url]
            covered = {e.name: e for e in self.server.covered(type_url)}
            poisoned = {n for n, e in covered.items() if StringValue.FromString(e.body()).value == POISON}
            (state,) = (one for one in self.server.states if one.type_url == type_url)
            assert set(state.refused) == poisoned
            for entry in resources.entries():
                if not (wildcard or entry.name in names or names & set(entry.aliases)):
                    continue
                if StringValue.FromString(entry.body()).value == POISON:
                    continue
                assert self.held[type_url].get(entry.name) == entry.body(), (type_url, entry.name)
                assert self.client.versions(type_url)[entry.name] == entry.version
            assert set(self.held[type_url]) == set(self.client.versions(type_url))
            for name in self.held[type_url]:
                entry = resources.get(name)
                assert entry is not None, (type_url, name)
                assert wildcard or name in names or names & set(entry.aliases), (type_url, name)

    def teardown(self) -> None:
        if hasattr(self, "maps"):
            self.settle()
            self.disconnect()
            assert all(not resources.wanted() for resources in self.maps.values())


Conversation.TestCase.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)
TestConversation = Conversation.TestCase

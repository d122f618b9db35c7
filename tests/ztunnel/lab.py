"""A few real network namespaces that stand for one node and its pods.

Everything has the prefix `tk-zt` and hangs off one namespace of its own (`tk-zt<n>-node`, with the bridge), so the host's
network is not touched.  The redirect rules are those a node agent installs in a captured pod.
"""

from __future__ import annotations

import contextlib
import subprocess
from dataclasses import dataclass, field

REDIRECT = """
table inet mesh {
  chain remember {
    type filter hook prerouting priority mangle; policy accept;
    meta mark & 0xfff == 0x539 ct mark set 0x111
  }
  chain recall {
    type route hook output priority mangle; policy accept;
    ct mark 0x111 meta mark set ct mark
  }
  chain apart {
    type filter hook output priority raw; policy accept;
    oifname "lo" meta mark & 0xfff == 0x539 meta l4proto tcp ct original zone set 2
  }
  chain prerouting {
    type nat hook prerouting priority dstnat; policy accept;
    ip saddr 169.254.7.127 accept
    meta mark & 0xfff == 0x539 accept
    ip daddr 127.0.0.0/8 accept
    ip6 daddr ::1 accept
    meta l4proto tcp tcp dport != 15008 redirect to :15006
  }
  chain output {
    type nat hook output priority -100; policy accept;
    meta mark & 0xfff == 0x539 accept
    meta mark 0x111 accept
    oif lo accept
    ip daddr 127.0.0.0/8 accept
    meta l4proto tcp redirect to :15001
  }
}
"""


def run(*argv: str, stdin: str | None = None) -> str:
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(argv)}: exit {done.returncode}: {done.stderr.strip()}")
    return done.stdout


@dataclass
class Pod:
    netns: str
    ip: str
    ip6: str = ""
    captured: bool = False

    @property
    def path(self) -> str:
        return f"/run/netns/{self.netns}"

    def argv(self, *argv: str) -> list[str]:
        return ["ip", "netns", "exec", self.netns, *argv]

    def curl(self, *argv: str, timeout: int = 15) -> subprocess.CompletedProcess[str]:
        command = self.argv("curl", "-sS", "-m", str(timeout), *argv)
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def capture(self) -> None:
        run(*self.argv("nft", "-f", "-"), stdin=REDIRECT)
        for version in ("-4", "-6"):
            run("ip", version, "-n", self.netns, "route", "replace", "local", "default", "dev", "lo", "table", "100")
            run("ip", version, "-n", self.netns, "rule", "add", "fwmark", "0x111/0xfff", "lookup", "100")
        self.captured = True

    def release(self) -> None:
        run(*self.argv("nft", "delete", "table", "inet", "mesh"))
        self.captured = False


@dataclass
class Lab:
    """Namespaces on one bridge; `subnet` is the first three bytes of their addresses."""

    name: str = "tk-zt"
    subnet: str = "10.244.77"
    pods: dict[str, Pod] = field(default_factory=dict)
    servers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def node(self) -> str:
        return f"{self.name}-node"

    def up(self) -> None:
        run("ip", "netns", "add", self.node)
        inside = ["ip", "-n", self.node]
        run(*inside, "link", "set", "lo", "up")
        run(*inside, "link", "add", "br0", "type", "bridge")
        run(*inside, "addr", "add", f"{self.subnet}.1/24", "dev", "br0")
        run(*inside, "link", "set", "br0", "up")
        run("ip", "netns", "exec", self.node, "sysctl", "-qw", "net.ipv4.ip_forward=1")

    def add(self, name: str, number: int) -> Pod:
        netns = f"{self.name}-{name}"
        pod = Pod(netns, f"{self.subnet}.{number}", f"fd00:77::{number}")
        run("ip", "netns", "add", netns)
        run("ip", "-n", self.node, "link", "add", f"v{number}", "type", "veth", "peer", "name", "eth0", "netns", netns)
        run("ip", "-n", self.node, "link", "set", f"v{number}", "master", "br0", "up")
        for argv in (
            ("link", "set", "lo", "up"),
            ("addr", "add", f"{pod.ip}/24", "dev", "eth0"),
            ("-6", "addr", "add", f"{pod.ip6}/64", "dev", "eth0", "nodad"),
            ("link", "set", "eth0", "up"),
            ("route", "add", "default", "via", f"{self.subnet}.1"),
            ("-6", "route", "add", "default", "dev", "eth0"),
        ):
            run("ip", "-n", netns, *argv)
        self.pods[name] = pod
        return pod

    def remove(self, name: str) -> None:
        pod = self.pods.pop(name)
        run("ip", "netns", "del", pod.netns)

    def down(self) -> None:
        for process in self.servers:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
        for netns in [pod.netns for pod in self.pods.values()] + [self.node]:
            with contextlib.suppress(RuntimeError):
                run("ip", "netns", "del", netns)

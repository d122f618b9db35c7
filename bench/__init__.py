"""How fast and how large the mesh is, measured: one module for one question, each run as `python -m bench.<module>`.

Figures are no tests: they depend on the machine and on what else it does, so nothing here passes or fails. What is compared is
measured in turns within one run, and ratios of medians are what to look at. Each module writes `bench/results/<name>.json`, and its
part of `docs/performance.md` with its charts.

Read `report` (results to tables and charts), `processes` (CPU and memory from /proc), `private` (namespaces, so that the machine's
network is left alone), `mesh` (a whole mesh for a measurement), `load` (wrk, h2load, iperf3) and `steady` (a fixed rate); then the
questions: `startup`, `memory`, `dataplane`, `policy`, `curves`, `certificates`, `controlplane`, `api`, `security_engine` and `soak`.
"""

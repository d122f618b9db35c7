"""What goes through the proxy, as far as Python has to know: which connections are open, and how many there were.

Envoy writes a line when a connection opens and when it ends (`config.logs`); no byte of a connection comes here.  From
these lines come the table of open connections, the access log and the metrics.  A change of policy holds for new
connections by Envoy's configuration; open ones that it forbids are found in the table and closed by the kernel.

Reading order: `line`, `parties`, `metrics`, `flow`, `table`, `verdict`, `watch`, `sockets`, `entry`, `monitor`.
"""

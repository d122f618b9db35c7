"""Tables: what `kubectl get` prints, computed where the objects are.

`cells.py` holds the small formats (ages, selectors, ports), `columns.py` which columns each kind has, `pods.py` the status
of a pod in one word, `workloads.py`, `network.py` and `misc.py` the rows of the other kinds, `custom.py` the columns that a
CustomResourceDefinition declares, and `render.py` puts a table together.
"""

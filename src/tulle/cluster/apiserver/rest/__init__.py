"""The verbs.

`call.py` is one request on its way through the server; `body.py` reads what was sent and `response.py` writes what is
wanted back; `objects.py` holds the rules every object's metadata follows; `writer.py` creates, updates and deletes (and is
used without HTTP by the bootstrap); `read.py` and `watch.py` answer get, list and watch; `patch.py` and `subresources.py`
build on the writer; `dispatch.py` ties a request to its handler.
"""

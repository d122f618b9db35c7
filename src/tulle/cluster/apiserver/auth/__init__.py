"""Who is asking, and may they.

`users.py` names the asker; `tokens.py` makes and reads ServiceAccount tokens; `authenticate.py` turns a connection's
certificate or a bearer token into a user; `rules.py` is the pure RBAC evaluator and `rbac.py` keeps its index over the
stored roles and bindings; `bootstrap.py` holds the roles every cluster starts with; `reviews.py` answers the review kinds.
"""

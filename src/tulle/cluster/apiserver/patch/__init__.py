"""The four ways to patch: `json_patch.py` (RFC 6902), `merge_patch.py` (RFC 7386), `strategic.py` (by the schema's merge
keys), and server-side apply (`shapes.py` and `fieldset.py` are its algebra of field ownership, `apply.py` the operation).
All are pure functions of documents.
"""

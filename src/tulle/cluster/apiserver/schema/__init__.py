"""What objects may look like.

`definitions.py` loads the published OpenAPI definitions of the built-in kinds; `decode.py` checks an object against them
the way the API's decoder does (types, unknown fields, nulls); `custom.py` does the same and more for custom resources
(defaulting, pruning, validation); `structural.py` says whether a CustomResourceDefinition's schema is acceptable.
"""

"""The Kubernetes protobuf encoding, input side.

kubectl sends some of what it creates as protobuf and has no fallback, so it must be understood; answers are always JSON.
`wire.py` reads the wire format, `numbers.py` holds the field numbers as data, and `decode.py` joins them with the OpenAPI
definitions, which know every field's type, into the JSON form of the object.
"""

"""The programs inside the sample images: small HTTP servers on the standard library alone, so that a pod of them
costs little memory.
"""

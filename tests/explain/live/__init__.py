"""What `tulle explain` says beforehand, held against what curl sees afterwards, in one running mesh.

Nothing is simulated: policies go through the API server and its admission, istiod, ztunnel and waypoints take them, and curl runs in
client pods. Only the drawing is made up: random policies (`drawing`) in a small cluster where they often meet (`ground`), compared in
`traffic`.
"""

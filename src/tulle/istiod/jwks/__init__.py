"""The public keys of token issuers, fetched by istiod for the waypoints that verify tokens.

Users write the URLs, and istiod, which sees more of the network than they do, opens them. So what is fetched is guarded, and what
cannot be fetched is never replaced by something else: an issuer without keys has no valid tokens.

Reading order: `guard` (which addresses may be asked), `keys` (which keys can be used), `fetch` (one key set from one issuer), `store`
(kept fresh for all that are wanted).
"""

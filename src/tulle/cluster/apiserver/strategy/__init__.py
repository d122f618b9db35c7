"""What differs from kind to kind.

`strategy.py` is the dispatcher that the writer calls; the rest are its tables: `pod_defaults.py` and `defaults.py` fill in
values, `pod_rules.py` and `rules.py` refuse bad ones, `immutable.py` refuses changes, `allocation.py` hands out cluster IPs
and node ports, `admission.py` guards namespaces and gives pods their ServiceAccount, `webhooks.py` asks the validating
webhooks, and `ownership.py` keeps managedFields.
"""

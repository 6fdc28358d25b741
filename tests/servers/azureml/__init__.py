"""A double of Azure Machine Learning: its HTTP services on loopback, with state in memory and blobs in Azurite.

stage, seeding, samples, accounts    what starts it, and fills it with workspaces, runs and blobs
front, exchange, messages            the proxy that clients go through; `effects` and `faults`: what can go wrong; `log`: what was asked
blob_rules, signatures               what stands between a client and Azurite
app, frame, access, answers          the way of a request to its route; tokens and rights; the forms of errors
identity, device_code, principals    sign-in
arm_*                                the control plane; everything else answers on the data plane
state, storage                       what there is
"""

"""How many replicas, which queue and which cache a given traffic needs: `python -m bench capacity --help`.

`measure` finds what the service costs on this machine, `simulate` lets a replica with these costs serve a
traffic, `plan` asks it until the targets are met, `validate` holds it against the real server.
"""

"""Schedules on their way in and out: other schedulers' files (foreign.py, importing.py), manifests
(plain.py, manifest.py), and what applying one would change (moves.py)."""

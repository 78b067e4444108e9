"""What is wrong with a namespace and with what it stands on: read (examination.py) and judged
(findings.py, surroundings.py)."""

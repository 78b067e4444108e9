"""What is wrong with schedules, told by the leading clock: found out (watch.py), told apart from
what is no news (board.py), and sent (channels.py)."""
